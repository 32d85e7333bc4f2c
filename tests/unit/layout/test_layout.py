import pytest

from vigmpi.errors import InputError
from vigmpi.layout.layout import Layout


def test_a_pipelines_neighbours_sit_on_neighbouring_ranks() -> None:
    layout = Layout(stages=3, replicas=2, chunks=1)
    places = [layout.place(rank) for rank in range(layout.ranks)]
    assert places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize("size", [1, 3, 8])
def test_another_world_size_is_told_the_number_needed(size: int) -> None:
    with pytest.raises(InputError, match=f"needs 4 ranks, {size} w.*type: mpirun -n 4 "):
        Layout(stages=2, replicas=2, chunks=1).check_world(size)


@pytest.mark.parametrize(
    ("ranks", "whole"),
    [({0, 1, 2, 3, 4, 5}, [0, 1]), ({0, 1, 3, 4, 5}, [1]), ({0, 1, 2, 5}, [0]), ({1, 3}, [])],
)
def test_a_replica_is_whole_with_all_its_stages(ranks: set[int], whole: list[int]) -> None:
    assert Layout(stages=3, replicas=2, chunks=1).whole_replicas(ranks) == whole
