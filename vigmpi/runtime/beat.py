import struct
from enum import IntEnum
from typing import NamedTuple

from vigmpi.runtime.activity import ACTIONS, Now

_KINDS = tuple(ACTIONS)
_WIRE = struct.Struct("<BIBiIQf")

INTERVAL_S = 1.0  # from one beat to the next


class Word(IntEnum):
    """What a rank has to say for itself.

    GOODBYE: it is through, and leaves as it should. TOLD: it has met or found a failure, says so
    itself and ends the run.
    """

    ALIVE = 0
    GOODBYE = 1
    TOLD = 2


class Beat(NamedTuple):
    """A sign of life, of fixed size on the wire.

    Attributes:
        now: with the seconds that the rank has been at it as `since`.
    """

    word: Word
    rank: int
    now: Now

    def pack(self) -> bytes:
        kind, *numbers = self.now
        return _WIRE.pack(self.word, self.rank, _KINDS.index(kind), *numbers)

    @staticmethod
    def unpack(data: bytes) -> "Beat":
        word, rank, kind, *numbers = _WIRE.unpack(data)
        return Beat(Word(word), rank, Now(_KINDS[kind], *numbers))


SIZE_BYTES = _WIRE.size
