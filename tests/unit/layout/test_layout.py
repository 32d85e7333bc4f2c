import pytest

from vigmpi.errors import InputError
from vigmpi.layout.layout import Layout


def test_neighbouring_stages_are_on_neighbouring_ranks() -> None:
    layout = Layout(stages=3, replicas=2, chunks=1)
    places = [layout.place(rank) for rank in range(layout.ranks)]
    assert places == [(0, 0, 0), (0, 1, 0), (0, 2, 0), (1, 0, 0), (1, 1, 0), (1, 2, 0)]


def test_the_parts_of_a_stage_are_on_neighbouring_ranks() -> None:
    layout = Layout(stages=2, replicas=2, chunks=1, parts=3)
    assert layout.ranks == 12
    assert [layout.place(rank) for rank in (0, 2, 3, 11)] == [
        (0, 0, 0), (0, 0, 2), (0, 1, 0), (1, 1, 2),
    ]  # fmt: skip
    assert layout.previous_stage(4) == [1]
    assert layout.next_stage(4) == []
    assert layout.next_stage(8) == [11]
    assert layout.other_replicas(4) == [10]
    assert layout.other_parts(4) == [3, 5]
    assert layout.complete_replicas(range(1, 12)) == [1]
    assert layout.with_ranks(6).replicas == 1


@pytest.mark.parametrize("size", [1, 3, 8])
def test_a_wrong_world_size_is_reported_with_the_number_of_ranks_needed(size: int) -> None:
    with pytest.raises(InputError, match=rf"needs 4 ranks, {size} w.*\. Use srun -n 4 .*\.$"):
        Layout(stages=2, replicas=2, chunks=1).check_world(size, "srun")


@pytest.mark.parametrize(
    ("ranks", "complete"),
    [({0, 1, 2, 3, 4, 5}, [0, 1]), ({0, 1, 3, 4, 5}, [1]), ({0, 1, 2, 5}, [0]), ({1, 3}, [])],
)
def test_a_replica_is_complete_if_all_its_stages_are(ranks: set[int], complete: list[int]) -> None:
    assert Layout(stages=3, replicas=2, chunks=1).complete_replicas(ranks) == complete
