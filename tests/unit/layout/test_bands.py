import pytest

from vigmpi.kernels import fused_gelu
from vigmpi.layout.bands import BLOCK_NODES, band_edges, bands, strips

SIZES = [
    (height, width) for height in (1, 2, 9, 32, 33, 64, 224, 1000) for width in (1, 7, 32, 640)
]


def rows_of(pieces: list[range]) -> list[int]:
    return [row for piece in pieces for row in piece]


def test_bands_are_as_long_as_the_kernels_blocks() -> None:
    assert BLOCK_NODES == fused_gelu._NODES
    assert [len(band) for band in bands(32, 32)] == [8] * 4
    assert [len(band) for band in bands(64, 64)] == [8] * 8
    assert [len(band) for band in bands(8, 8)] == [8]
    assert [len(band) for band in bands(8192, 8192)] == [128] * 64


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_bands_and_strips_cover_an_image(height: int, width: int) -> None:
    rows = bands(height, width)
    assert rows_of(rows) == list(range(height))
    assert len(rows) <= 128
    starts = {band.start for band in rows}
    for parts in {1, 2, 3, len(rows), height}:
        if parts <= height:
            pieces = strips(height, width, parts)
            assert rows_of(pieces) == list(range(height))
            assert all(pieces)
            assert len(pieces) == parts
            whole = [piece.start in starts for piece in pieces]
            assert all(whole) or parts > len(rows)


def test_a_band_that_belongs_to_several_strips_is_divided() -> None:
    assert strips(12, 9, 3) == [range(4), range(4, 8), range(8, 12)]  # one band
    assert band_edges(12, 9, range(4, 8)) == [4, 8]
    assert band_edges(32, 32, range(4, 20)) == [4, 8, 16, 20]
