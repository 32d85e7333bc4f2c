"""Functions from a configuration to the layers of each model, as entries of `MODELS`."""

from functools import partial

from vigmpi.models.vig.layers import vig_layers
from vigmpi.models.vig.variant import Variant, isotropic, pyramid

vig_ti = partial(vig_layers, isotropic(192, 12))
vig_s = partial(vig_layers, isotropic(320, 16))
vig_b = partial(vig_layers, isotropic(640, 16))

pvig_ti = partial(vig_layers, pyramid((48, 96, 240, 384), (2, 2, 6, 2)))
pvig_s = partial(vig_layers, pyramid((80, 160, 400, 640), (2, 2, 6, 2)))
pvig_m = partial(vig_layers, pyramid((96, 192, 384, 768), (2, 2, 16, 2)))
pvig_b = partial(vig_layers, pyramid((128, 256, 512, 1024), (2, 2, 18, 2)))

vig_cifar = partial(
    vig_layers,
    Variant(
        stem=((32, 1), (64, 2), (64, 1)),
        channels=(64, 128),
        blocks=(0, 4),
        residuals=(1, 1),
        reductions=(1, 1),
        k=(9, 9),
        max_dilation=1,
        groups=1,
        hidden=None,
        bias=False,
    ),
)
