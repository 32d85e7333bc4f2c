from collections.abc import Iterator

from vigmpi.schedule.action import Action, Kind


def gpipe(stage: int, stages: int, chunks: int) -> Iterator[Action]:  # noqa: ARG001
    """All forwards, then all backwards (Huang et al., "GPipe", NeurIPS 2019)."""
    for i in range(chunks):
        yield Action(Kind.FORWARD, i)
    # Ascending in every schedule: gradients add up in one order, bit for bit.
    for i in range(chunks):
        yield Action(Kind.BACKWARD, i)


def forward_only(stage: int, stages: int, chunks: int) -> Iterator[Action]:  # noqa: ARG001
    """The test phase."""
    for i in range(chunks):
        yield Action(Kind.FORWARD, i)
