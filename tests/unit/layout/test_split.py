from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigmpi.errors import InputError
from vigmpi.layout.split import even_sizes, split_after, split_by_time, split_layers


@given(st.integers(0, 1000), st.integers(1, 50))
def test_even_sizes_differ_by_at_most_one_with_larger_ones_first(count: int, pieces: int) -> None:
    sizes = even_sizes(count, pieces)
    assert len(sizes) == pieces
    assert sum(sizes) == count
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


class Entry(NamedTuple):
    name: str
    is_block: bool = True
    cut: bool = True


def blocks(number: int) -> list[Entry]:
    return [Entry(f"block {i}") for i in range(number)]


HEAD = Entry("head", is_block=False)
PYRAMID = [
    Entry("stem", is_block=False),
    *blocks(2),
    Entry("downsampling", is_block=False),
    *blocks(5)[2:],
    HEAD,
]


def test_stages_hold_consecutive_blocks_and_the_last_one_the_head() -> None:
    assert split_layers([*blocks(8), HEAD], 3) == [range(3), range(3, 6), range(6, 9)]
    assert split_layers([*blocks(8), HEAD], 3, (4, 2, 2)) == [range(4), range(4, 6), range(6, 9)]
    assert split_layers([*blocks(12), HEAD], 4, (6, 2, 2, 2))[0] == range(6)


def test_a_stem_belongs_to_the_first_stage_and_a_downsampling_to_the_block_behind_it() -> None:
    assert split_layers(PYRAMID, 2, (2, 3)) == [range(3), range(3, 8)]
    assert split_layers(PYRAMID, 3, (1, 1, 3)) == [range(2), range(2, 3), range(3, 8)]


def test_layers_are_cut_behind_the_named_ones() -> None:
    assert split_after(PYRAMID, 3, ["stem", "downsampling"]) == [range(1), range(1, 4), range(4, 8)]
    assert split_after(PYRAMID, 1, []) == [range(8)]
    assert split_after(PYRAMID, 2, ["block 4"])[1] == range(7, 8)  # the head alone


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["head"],
            r"no cut behind this layer: head in --split-after head\. Use layers from stem, ",
        ),
        (["block 9"], r"no cut behind this layer: block 9 in .*\.$"),
        (
            ["block 1", "stem"],
            r"invalid split: --split-after block 1,stem\. Use .*\.$",
        ),
        (["stem", "stem"], r"invalid split: .*\.$"),
        (
            ["stem"],
            r"wrong number of stages: --stages 3 for --split-after stem\. Use --stages 2\.$",
        ),
    ],
)
def test_names_that_give_no_split_are_rejected(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_after(PYRAMID, 3, names)


def test_a_split_behind_a_layer_that_forbids_it_is_rejected() -> None:
    layers = [Entry("block 0", cut=False), Entry("block 1"), HEAD]
    with pytest.raises(InputError, match=r"cannot be cut behind block 0\. Use .*\.$"):
        split_layers(layers, 2)
    with pytest.raises(InputError, match="no cut behind this layer: block 0"):
        split_after(layers, 2, ["block 0"])


@pytest.mark.parametrize("split", [(4, 3), (4, 2, 2), (8, 0), (9, -1), (8,)])
def test_a_split_that_does_not_match_stages_and_blocks_is_rejected(split: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r": --split .+\. Use .+, for example --split 4,4\.$"):
        split_layers([*blocks(8), HEAD], 2, split)


def test_more_stages_than_blocks_are_rejected() -> None:
    with pytest.raises(InputError, match=r": --stages 9 for 8 blocks\. Use .*\.$"):
        split_layers([*blocks(8), HEAD], 9)


def all_splits(layers: list[Entry], stages: int) -> list[list[range]]:
    allowed = [index + 1 for index, layer in enumerate(layers[:-1]) if layer.cut]
    return [
        [range(*ends) for ends in pairwise((0, *cuts, len(layers)))]
        for cuts in combinations(allowed, stages - 1)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_split_by_time_is_the_best_of_all(seed: int) -> None:
    random = np.random.default_rng(seed)
    layers = [Entry(f"{i}", cut=random.random() < 0.8) for i in range(9)]
    seconds = random.random(9) ** 2
    for stages in (1, 2, 3, 4):
        splits = all_splits(layers, stages)
        if not splits:
            continue

        def slowest(split: list[range]) -> float:
            return max(float(seconds[stage.start : stage.stop].sum()) for stage in split)

        found = split_by_time(layers, stages, seconds.tolist())
        assert found in splits
        assert slowest(found) == pytest.approx(min(map(slowest, splits)), rel=1e-12)


def test_more_stages_than_pieces_are_refused() -> None:
    layers = [Entry("a"), Entry("b", cut=False), Entry("c")]
    with pytest.raises(
        InputError,
        match=r"--stages 3 for a model that can be cut into at most 2. Use --stages 2 or fewer",
    ):
        split_by_time(layers, 3, [1.0, 1.0, 1.0])
