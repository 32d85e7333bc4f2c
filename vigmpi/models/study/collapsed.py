"""Fast backend: the block after an exact collapse of its linear layers.

All layers in front of a GELU are together an affine map of the few-channel input x. The batch
norm over Linear(x) follows from the mean and covariance K of x: a hidden unit with weights w has
the variance w K w^T. Linear and norm together are A x + c, and with the graph convolution

    W_rel A (sum over neighbours of x) + W_root A x + W_rel c (number of neighbours)
        + W_root c + b_rel

The maps are computed for each micro-batch as small differentiable products, so that every
parameter gets its exact gradient. The rounded mean of x is subtracted first, which avoids
cancellation for values far from zero. `vigmpi/kernels/README.md` derives the formulas.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vigmpi.kernels.autograd import HalfBlock, Norm, apply_hidden_layer
from vigmpi.kernels.autograd import block as apply_block
from vigmpi.kernels.hidden_layer import HiddenLayer
from vigmpi.kernels.one_thread import on_one_thread
from vigmpi.kernels.statistics import Moments
from vigmpi.models.layer import MicroBatch
from vigmpi.models.study import block
from vigmpi.models.study.block import GraphConvWeights, LinearNorm


class Affine(NamedTuple):
    """Affine map weight x + bias."""

    weight: Tensor
    bias: Tensor

    def to(self, dtype: torch.dtype) -> "Affine":
        return Affine(self.weight.to(dtype), self.bias.to(dtype))


class Block(block.Block):
    _versions: list[int] | None = None  # of the tensors that `_layers` were computed from
    _layers: list[HiddenLayer]

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        x = features.flatten(2)
        if not self.training:
            return self._evaluate(x)
        halves = [_half_block(self.grapher), _half_block(self.ffn)]
        out, moments = apply_block(x, halves, self.graph, recompute=self.recompute)
        norms = self.grapher.fc2.norm, self.ffn.fc2.norm
        for norm, each in zip(norms, moments, strict=True):
            norm.record_moments(each.num_nodes, each.mean, each.variance)
        return out

    def _evaluate(self, x: Tensor) -> Tensor:
        for hidden in self.folded_layers():
            x = x + apply_hidden_layer(x, hidden, self.graph)
        return x

    def folded_layers(self) -> list[HiddenLayer]:
        """Return both hidden layers with the running statistics folded into their weights.

        Without gradients, they are cached until a weight or a statistic changes.
        """
        if torch.is_grad_enabled():
            return self._fold()
        versions = [t._version for t in (*self.parameters(), *self.buffers())]
        if self._versions != versions:
            self._versions, self._layers = versions, self._fold()
        return self._layers

    def _fold(self) -> list[HiddenLayer]:
        grapher, ffn = self.grapher, self.ffn
        inputs = *folded(grapher.fc1), *_weights(grapher.graph_conv)
        gathered = Affine(*on_one_thread(_over_neighbours, *inputs))
        maps = [
            (gathered, grapher.fc2, True),
            (folded(ffn.fc1), ffn.fc2, False),
        ]
        dtype = ffn.fc1.linear.weight.dtype
        layers = []
        for first, last, convolution in maps:
            (a, b), (v, c) = first.to(dtype), folded(last).to(dtype)
            layers.append(HiddenLayer(c.new_zeros(len(c)), a, b, v.T, c, convolution))
        return layers


def _half_block(half: block.Grapher | block.FeedForward) -> HalfBlock:
    first, last = half.fc1, half.fc2
    conv = half.graph_conv if isinstance(half, block.Grapher) else None

    def collapse(moments: Moments) -> Affine:
        affine = normalised(first, moments)
        return _over_neighbours(*affine, *_weights(conv)) if conv else affine

    parameters = [first.linear.weight, *first.norm.parameters()]
    if conv:
        parameters += conv.parameters()
    linear = Affine(last.linear.weight.T, last.linear.bias.detach())
    norm = Norm(last.norm.weight, last.norm.bias, last.norm.eps)
    return HalfBlock(collapse, parameters, linear, norm, convolution=conv is not None)


def normalised(layer: LinearNorm, moments: Moments) -> Affine:
    """Return linear layer and norm in training as a map of x - shift; record the norm's moments.

    float64 keeps small differences of moments; only the resulting map is rounded.
    """
    linear, norm = layer.linear, layer.norm
    weight = linear.weight.double()
    variance = ((weight @ moments.covariance) * weight).sum(dim=1)
    norm.record_moments(moments.num_nodes, weight @ moments.mean + linear.bias, variance)
    scaled = (norm.weight * (variance + norm.eps).rsqrt())[:, None] * weight
    bias = norm.bias - scaled @ (moments.mean - moments.shift)
    return Affine(scaled, bias).to(linear.weight.dtype)


def folded(layer: LinearNorm) -> Affine:
    """Return linear layer and norm in evaluation as a map of x, in float64."""
    linear, norm = layer.linear, layer.norm
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var.double() + norm.eps).rsqrt()
    offset = norm.bias + scale * (linear.bias - norm.running_mean)
    return Affine(scale[:, None] * linear.weight, offset)


def _weights(conv: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """Return W_rel, W_root and b_rel of a graph convolution."""
    assert isinstance(conv, GraphConvWeights)
    return conv.lin_rel.weight, conv.lin_root.weight, conv.lin_rel.bias


def _over_neighbours(
    weight: Tensor, bias: Tensor, w_rel: Tensor, w_root: Tensor, b_rel: Tensor
) -> Affine:
    """Return the graph convolution after an affine map, as a map of the gathered features."""
    both = torch.cat([weight.T, bias[None]])
    rel = F.linear(both, w_rel.to(both.dtype))
    root = F.linear(both, w_root.to(both.dtype))
    gathered = torch.cat([rel[:-1], root[:-1], rel[-1:]])
    return Affine(gathered.T, root[-1] + b_rel)
