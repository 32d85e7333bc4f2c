"""The order of the tests, and the fixture that runs functions on MPI ranks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest

from tests.ranks import Ranks

OnRanks = Callable[..., None]
_SLOW_LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run MPI tests first and serially, because some measure time; the rest overlap the drills."""
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    if mark := item.get_closest_marker("turn"):
        return int(mark.args[0])
    return 0 if item.path.parent.name == "mpi" else 2


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Count the tests marked `slow` that this session leaves out."""
    for item in items:
        if item.get_closest_marker("slow"):
            stash = item.config.stash
            stash[_SLOW_LEFT_OUT] = stash.get(_SLOW_LEFT_OUT, 0) + 1


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print how many tests marked `slow` were left out."""
    if number := config.stash.get(_SLOW_LEFT_OUT, 0):
        terminalreporter.write_line(
            f'{number} tests marked slow left out. Use pytest -m "slow or not slow" to run all.'
        )


@pytest.fixture(scope="session")
def running_ranks() -> Iterator[dict[int, Ranks]]:
    """Yield the running ranks by their number; starting them takes longer than most calls."""
    by_number: dict[int, Ranks] = {}
    yield by_number
    for ranks in by_number.values():
        ranks.end()


@pytest.fixture
def on_ranks(running_ranks: dict[int, Ranks]) -> OnRanks:
    """Return a function that runs a module's function on every rank of a real `mpiexec`.

    It fails if any rank fails. Calls on the same number of ranks share their processes, except
    those with an `environ`.
    """

    def run(
        number: int,
        function: Callable[..., None],
        *,
        timeout: float = 240,
        environ: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        ranks = running_ranks.pop(number, None) if environ is None else None
        ranks = ranks or Ranks(number, environ)
        failure = ranks.call(function, timeout, arguments)
        assert failure is None, failure
        if environ is None:
            running_ranks[number] = ranks
        else:
            ranks.end()

    return run
