from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    FORWARD = "F"
    BACKWARD = "B"
    RECEIVE_FEATURES = "rF"
    SEND_FEATURES = "sF"
    RECEIVE_GRADIENTS = "rB"
    SEND_GRADIENTS = "sB"


@dataclass(frozen=True, slots=True)
class Action:
    """One operation of a stage on one micro-batch of a step, printed as `F0` or `sB3`."""

    kind: Kind
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.kind}{self.micro_batch}"
