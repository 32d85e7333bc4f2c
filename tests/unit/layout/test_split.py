import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigmpi.errors import InputError
from vigmpi.layout.split import even_sizes, split_blocks


@given(st.integers(0, 1000), st.integers(1, 50))
def test_even_sizes_differ_by_at_most_one_with_larger_ones_first(count: int, pieces: int) -> None:
    sizes = even_sizes(count, pieces)
    assert len(sizes) == pieces
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


def test_stages_hold_consecutive_blocks() -> None:
    assert split_blocks(8, 3, None) == [range(3), range(3, 6), range(6, 8)]
    assert split_blocks(8, 3, (4, 2, 2)) == [range(4), range(4, 6), range(6, 8)]
    assert split_blocks(12, 4, (6, 2, 2, 2))[0] == range(6)


@pytest.mark.parametrize("split", [(4, 3), (4, 2, 2), (8, 0), (9, -1), (8,)])
def test_a_split_that_does_not_match_stages_and_blocks_is_rejected(split: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r": --split .+\. Use .+, for example --split 4,4\.$"):
        split_blocks(8, 2, split)


def test_more_stages_than_blocks_are_rejected() -> None:
    with pytest.raises(InputError, match=r": --stages 9 for 8 blocks\. Use .*\.$"):
        split_blocks(8, 9, None)
