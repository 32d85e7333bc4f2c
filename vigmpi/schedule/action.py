from dataclasses import dataclass
from enum import StrEnum

WHOLE_MINI_BATCH = -1


class Kind(StrEnum):
    """Kinds of action; `vigmpi.schedule.kinds.KINDS` describes them."""

    FORWARD = "F"
    BACKWARD = "B"
    RECEIVE_FEATURES = "rF"
    SEND_FEATURES = "sF"
    RECEIVE_GRADIENTS = "rB"
    SEND_GRADIENTS = "sB"
    REDUCE = "R"


@dataclass(frozen=True, slots=True)
class Action:
    """One operation of a stage in a step, printed as `2F0`, or as `2R` for all micro-batches."""

    stage: int
    kind: Kind
    micro_batch: int = WHOLE_MINI_BATCH

    def __str__(self) -> str:
        number = "" if self.micro_batch == WHOLE_MINI_BATCH else self.micro_batch
        return f"{self.stage}{self.kind}{number}"
