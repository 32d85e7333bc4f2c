"""Random streams of the initial weights."""

import numpy as np
import torch


def generator(seed: int, index: int) -> torch.Generator:
    """Return the random stream of a layer, so that weights do not depend on the other layers.

    Args:
        seed: seed of the model.
        index: number of the layer, from 0 on.
    """
    stream = np.random.SeedSequence([seed, index])
    return torch.Generator().manual_seed(int(stream.generate_state(1)[0]))
