import struct
from enum import IntEnum
from typing import NamedTuple

from vigmpi.monitor.activity import ACTIONS, CurrentAction

_KINDS = tuple(ACTIONS)
_WIRE = struct.Struct("<BIBiIQf")

INTERVAL_S = 1.0  # from one heartbeat to the next


class Status(IntEnum):
    """What a rank has to say for itself.

    SHUTDOWN: it is through, and leaves as it should. REPORTED: it has met or found a failure, says so
    itself and ends the run.
    """

    ALIVE = 0
    SHUTDOWN = 1
    REPORTED = 2


class Heartbeat(NamedTuple):
    """A sign of life, of fixed size on the wire.

    Attributes:
        now: with the seconds that the rank has been at it as `since`.
    """

    status: Status
    rank: int
    now: CurrentAction

    def pack(self) -> bytes:
        kind, *numbers = self.now
        return _WIRE.pack(self.status, self.rank, _KINDS.index(kind), *numbers)

    @staticmethod
    def unpack(data: bytes) -> "Heartbeat":
        status, rank, kind, *numbers = _WIRE.unpack(data)
        return Heartbeat(Status(status), rank, CurrentAction(_KINDS[kind], *numbers))


SIZE_BYTES = _WIRE.size
