"""Heartbeats, the messages of fixed size that ranks send to the monitors."""

import struct
from enum import IntEnum
from typing import NamedTuple

from vigmpi.monitor.activity import CurrentAction
from vigmpi.schedule.kinds import KINDS

_WIRE = struct.Struct("<BIBiIQf")

INTERVAL_S = 1.0  # from one heartbeat to the next


class Status(IntEnum):
    """State of the sender: running, leaving in order, or reporting a failure that ends the run."""

    ALIVE = 0
    SHUTDOWN = 1
    REPORTED = 2


class Heartbeat(NamedTuple):
    """Heartbeat of one rank.

    Attributes:
        action: the current action; its `since` is the action's duration so far, in seconds.
    """

    status: Status
    rank: int
    action: CurrentAction

    def pack(self) -> bytes:
        kind, *numbers = self.action
        return _WIRE.pack(self.status, self.rank, list(KINDS).index(kind), *numbers)

    @staticmethod
    def unpack(data: bytes) -> "Heartbeat":
        status, rank, kind, *numbers = _WIRE.unpack(data)
        return Heartbeat(Status(status), rank, CurrentAction(list(KINDS)[kind], *numbers))


SIZE_BYTES = _WIRE.size
