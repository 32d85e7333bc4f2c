"""A schedule for tests that is as different from GPipe as possible."""

from collections.abc import Iterator

from vigmpi.schedule.action import Action, Kind


def two_in_flight(stage: int, stages: int, chunks: int) -> Iterator[Action]:
    """Yield a forward and a backward in turn, with at most two micro-batches in flight."""
    ahead = min(1 if stage == stages - 1 else 2, chunks)
    for i in range(ahead):
        yield Action(stage, Kind.FORWARD, i)
    for i in range(chunks):
        yield Action(stage, Kind.BACKWARD, i)
        if ahead + i < chunks:
            yield Action(stage, Kind.FORWARD, ahead + i)
