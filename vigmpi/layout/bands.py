"""Division of an image into bands and strips of rows.

Sums over the nodes of an image are taken band by band, and the sums of the bands are added in
their order. The bands follow from the size of the image alone, so that such a sum has the same bits
however the bands are distributed.
"""

from itertools import accumulate, pairwise

from vigmpi.layout.split import even_sizes

BLOCK_NODES = 256  # nodes that the kernels of the study's model process at a time
_BAND_ROWS = 8
_FEW_BANDS = 64  # the bands of large images are taller, so that their sums stay few


def bands(height: int, width: int) -> list[range]:
    """Return the rows of each band of an image.

    A band has at most 8 rows; in narrow images, at most as many as fill a block of the kernels; in
    images of over 512 rows, more, so that there are at most 128 bands. Of the numbers of bands that
    this allows, the one for which the kernels pad the fewest nodes is taken.
    """
    rows = max(_BAND_ROWS, BLOCK_NODES // width, -(-height // _FEW_BANDS))
    fewest = -(-height // rows)

    def blocks(number: int) -> int:
        return sum(-(-size * width // BLOCK_NODES) for size in even_sizes(height, number))

    return _ranges(even_sizes(height, min(range(fewest, min(2 * fewest, height) + 1), key=blocks)))


def band_edges(height: int, width: int, rows: range) -> list[int]:
    """Return the first row of each band of a strip, and the end of the strip.

    A band that belongs to several strips is divided among them.
    """
    starts = {band.start for band in bands(height, width)}
    return sorted(starts.intersection(rows) | {rows.start, rows.stop})


def strips(height: int, width: int, parts: int) -> list[range]:
    """Return the rows of each part of an image, as even as possible.

    They are whole bands, unless there are fewer bands than parts.
    """
    rows = bands(height, width)
    if len(rows) < parts:
        return _ranges(even_sizes(height, parts))
    pieces = _ranges(even_sizes(len(rows), parts))
    return [range(rows[piece.start].start, rows[piece.stop - 1].stop) for piece in pieces]


def _ranges(sizes: list[int]) -> list[range]:
    return [range(start, stop) for start, stop in pairwise(accumulate(sizes, initial=0))]
