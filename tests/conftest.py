from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.ranks import Ranks

OnRanks = Callable[..., None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on real ranks first, alone, since some measure; the others beside the fault drills."""
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    if mark := item.get_closest_marker("turn"):
        return int(mark.args[0])
    return 0 if item.path.parent.name == "mpi" else 2


@pytest.fixture(scope="session")
def started() -> Iterator[dict[int, Ranks]]:
    """By how many they are; they stay, since starting them takes longer than most calls."""
    found: dict[int, Ranks] = {}
    yield found
    for ranks in found.values():
        ranks.end()


@pytest.fixture
def on_ranks(started: dict[int, Ranks]) -> OnRanks:
    """Run a module's function on every rank of a real `mpiexec`; fail where any rank fails.

    Calls share their processes with earlier ones on as many ranks, but for those with an `environ`.
    """

    def run(
        number: int,
        function: Callable[..., None],
        *,
        timeout: float = 240,
        environ: Mapping[str, str] | None = None,
        **arguments: Any,
    ) -> None:
        ranks = started.pop(number, None) if environ is None else None
        ranks = ranks or Ranks(number, environ)
        harm = ranks.call(function, timeout, arguments)
        assert harm is None, harm
        if environ is None:
            started[number] = ranks
        else:
            ranks.end()

    return run
