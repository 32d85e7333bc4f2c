from collections.abc import Iterator

from vigmpi.schedule.action import Action, Kind


def gpipe(stage: int, stages: int, chunks: int) -> Iterator[Action]:  # noqa: ARG001
    """Yield all forwards, then all backwards (Huang et al., "GPipe", NeurIPS 2019)."""
    for i in range(chunks):
        yield Action(stage, Kind.FORWARD, i)
    for i in range(chunks):
        yield Action(stage, Kind.BACKWARD, i)


def forward_only(stage: int, stages: int, chunks: int) -> Iterator[Action]:  # noqa: ARG001
    """Yield all forwards: the schedule of an evaluation."""
    for i in range(chunks):
        yield Action(stage, Kind.FORWARD, i)
