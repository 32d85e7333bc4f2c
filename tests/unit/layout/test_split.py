import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigmpi.errors import InputError
from vigmpi.layout.split import even_sizes, split_blocks


@given(st.integers(0, 1000), st.integers(1, 50))
def test_even_pieces_differ_by_at_most_one_larger_first(count: int, pieces: int) -> None:
    sizes = even_sizes(count, pieces)
    assert len(sizes) == pieces
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def test_blocks_follow_each_other_over_the_stages() -> None:
    assert split_blocks(8, 3, None) == [range(3), range(3, 6), range(6, 8)]
    assert split_blocks(8, 3, (4, 2, 2)) == [range(4), range(4, 6), range(6, 8)]
    assert split_blocks(12, 4, (6, 2, 2, 2))[0] == range(6)


@pytest.mark.parametrize("split", [(4, 3), (4, 2, 2), (8, 0), (9, -1), (8,)])
def test_a_split_that_does_not_fit_is_refused(split: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="type: --split 4,4, for example"):
        split_blocks(8, 2, split)


def test_more_stages_than_blocks_are_refused() -> None:
    with pytest.raises(InputError, match=r"--stages 9 .* 8 blocks"):
        split_blocks(8, 9, None)
