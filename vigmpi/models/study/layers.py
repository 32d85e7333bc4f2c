"""The study's Vision GNN as a list of layers: blocks, then the head."""

from functools import partial
from types import ModuleType

from torch import nn

from vigmpi.graphs.pixel_lattice import PixelLattice
from vigmpi.kernels import autograd
from vigmpi.models.config import ModelConfig
from vigmpi.models.initialization import generator
from vigmpi.models.layer import Boundary, Layer
from vigmpi.models.study import collapsed
from vigmpi.models.study.config import ViGConfig
from vigmpi.models.study.head import Head

_RECOMPUTED = 3  # planes like a block's output: the inputs of both norms, and between the halves


def layers(
    config: ModelConfig,
    *,
    backend: str = "fast",
    seed: int = 0,
    graph: PixelLattice | None = None,
    recompute: bool = False,
) -> list[Layer]:
    """Return the layers of the study's model, as an entry of `MODELS`."""
    sizes = ViGConfig(
        blocks=config.blocks,
        num_classes=config.num_classes,
        readout=config.readout,
        image_size=config.image_size,
    )
    return study_layers(sizes, backend=backend, seed=seed, graph=graph, recompute=recompute)


def study_layers(
    config: ViGConfig = ViGConfig(),
    *,
    backend: str = "fast",
    seed: int = 0,
    graph: PixelLattice | None = None,
    recompute: bool = False,
) -> list[Layer]:
    """Return the layers of a model with these dimensions.

    Parameter names are those of the study's published code.

    Args:
        backend: "fast" (compiled kernels) or "reference" (PyG's layers).
        seed: seed of the initial weights. Each layer has a random stream of its own.
        graph: part of an image's graph that this rank has, for the fast backend; None for all.
        recompute: whether blocks save nothing but their input, in the fast backend.
    """
    implementation = _implementation(backend)
    graph = graph or PixelLattice(*config.image_size)
    node_sum = (
        partial(autograd.node_sum, graph=graph) if backend == "fast" else implementation.node_sum
    )
    pixels = Boundary((config.channels, graph.num_rows, graph.width))
    nodes = Boundary((config.channels, graph.num_rows * graph.width))

    def block(index: int) -> Layer:
        def build() -> nn.Module:
            module = implementation.Block(config, graph, recompute=recompute)
            return _initialised(module, seed, index)

        inputs = nodes if index > 0 else pixels
        name, prefix = f"block {index}", f"blocks.{index}."
        recomputed = _RECOMPUTED * nodes.image_bytes if recompute else 0
        return Layer(name, build, inputs, nodes, prefix, is_block=True, recomputed_bytes=recomputed)

    def head() -> nn.Module:
        return _initialised(Head(config, node_sum), seed, -1)

    logits = Boundary((config.num_classes,))
    return [*map(block, range(config.blocks)), Layer("head", head, nodes, logits)]


def _implementation(backend: str) -> ModuleType:
    if backend == "reference":
        from vigmpi.models.study import reference  # noqa: PLC0415 (PyG takes seconds to import)

        return reference
    return collapsed


def _initialised(module: nn.Module, seed: int, index: int) -> nn.Module:
    """Draw the initial weights of block `index` (-1: the head) from a random stream of its own.

    Linear maps have the distribution of torch's Linear. Parameters are drawn in the order of
    their names, because the backends' classes differ and must start from the same weights.
    """
    stream = generator(seed, index + 1)
    parameters = dict(module.named_parameters())
    for name in sorted(parameters):
        weight = parameters[name.rpartition(".")[0] + ".weight"]
        if weight.dim() == 2:  # the weight of a norm is a vector and stays 1
            bound = weight.shape[1] ** -0.5
            nn.init.uniform_(parameters[name], -bound, bound, stream)
    return module
