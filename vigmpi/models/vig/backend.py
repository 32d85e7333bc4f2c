"""Interface of the two backends of a ViG."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from vigmpi.models.normalization import Conv2dBeforeNorm, MicroBatchNorm


class ConvNorm(nn.Sequential):
    """Convolution, batch norm and activation, optionally added to a residual.

    Args:
        activation: "none", "relu" or "gelu"; "none" if a residual is added.
        matmul: library of the products, for backends that have a choice.
    """

    def __init__(
        self, conv: Conv2dBeforeNorm, norm: MicroBatchNorm, activation: str, matmul: str
    ) -> None:
        super().__init__(conv, norm)
        self.activation = activation
        self.matmul = matmul

    def forward(
        self, features: Tensor, residual: Tensor | None = None, factor: Tensor | None = None
    ) -> Tensor:
        """Return activation(norm(conv(features))), or residual + factor norm(conv(features)).

        Args:
            residual: map of the shape of the result.
            factor: number per image, [images]; 1 by default.
        """
        raise NotImplementedError


class MakePointwise(Protocol):
    """Function that returns a 1x1 convolution with batch norm, activation and `groups` groups.

    Its batch norm sees `num_values` values per image and channel.
    """

    def __call__(
        self,
        inputs: int,
        outputs: int,
        num_values: int,
        *,
        groups: int = 1,
        activation: str = "none",
    ) -> ConvNorm: ...


class Backend(NamedTuple):
    """Implementation of a ViG's operations.

    Attributes:
        conv_norm: subclass of `ConvNorm`.
        convolutions: graph convolutions by name. Their constructors take a function from inputs,
            outputs and values per image to a pointwise layer, the number of channels, of nodes per
            image and of neighbours.
        nearest: search for neighbours; see `graphs.neighbours.nearest`.
        matmul: see `ModelConfig`.
    """

    conv_norm: type[ConvNorm]
    convolutions: dict[str, type[nn.Module]]
    nearest: Callable[..., Tensor]
    matmul: str = "blas"
