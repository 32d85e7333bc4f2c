"""Position tables: fixed relative ones, and their conversion to another image size."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_ROWS_AT_A_TIME = 256  # the table before its reduction may be larger than the model


@lru_cache(maxsize=1)  # the blocks of a level are built one after another
def relative_positions(height: int, width: int, channels: int, reduction: int) -> Tensor:
    """Return the offsets of squared distances that make nearby nodes neighbours.

    They are the negated scalar products of sinusoidal position codes. A reduced search takes them
    at interpolated places along the flattened map, as the published weights were trained.

    Args:
        height, width: shape of the map of nodes.
        channels: number of channels, a multiple of four.
        reduction: side of the window over which the candidates are averaged.

    Returns:
        [1, nodes, candidates], in float32.

    Source: Han et al., Vision GNN, NeurIPS 2022; code of the pyramid models.
    """
    row, column = np.divmod(np.arange(height * width), width)
    frequencies = 10000.0 ** (-np.arange(channels // 4) / (channels / 4))
    angles = [place[:, None] * frequencies for place in (column, row)]
    codes = np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1)
    e = torch.from_numpy(codes)
    candidates = height * width // reduction**2
    rows = [
        _interpolated((2 * chunk @ e.T / channels).float()[None, None], (len(chunk), candidates))
        for chunk in e.split(_ROWS_AT_A_TIME)
    ]
    return -torch.cat(rows, dim=2)[0]


def resized(name: str, table: Tensor, shape: torch.Size) -> Tensor | None:
    """Return a position table for another image size; None if the tensor is no such table.

    Args:
        name: name of the tensor in the model's `state_dict`.
        table: its values, [1, channels, height, width] or [1, nodes, candidates].
        shape: shape to which its last two axes are interpolated.
    """
    is_table = name.rpartition(".")[2] in ("pos_embed", "relative_pos")
    if not is_table or table.shape[:-2] != shape[:-2]:
        return None
    values = table if table.dim() == 4 else table[None]
    return _interpolated(values, (shape[-2], shape[-1])).view(shape)


def _interpolated(values: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(values, size=size, mode="bicubic", align_corners=False)
