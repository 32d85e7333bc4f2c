"""Weights of the study's model for the C library in `native/`."""

import numpy as np
import torch

from vigmpi.export.manifest import ExportedLayer
from vigmpi.models.model import Model
from vigmpi.models.study.collapsed import Block
from vigmpi.models.study.head import Head


def exported_layers(model: Model) -> list[ExportedLayer]:
    """Return the layers of a model in evaluation mode, with their norms folded into weights.

    A file holds float32 arrays. Of a block, these are, for the Grapher and for the feed-forward
    network, a [hidden, features], b [hidden], v [hidden, 3] and c [3]: y = v^T gelu(a f + b) + c.
    a, b and v are scaled as `vigmpi/kernels/fused_gelu.py` describes. Of the head, they are the
    weights and biases of its linear layers.
    """
    layers = []
    pairs = zip(model.layers, model.layer_modules, strict=True)
    for number, (layer, module) in enumerate(pairs):
        if isinstance(module, Block):
            arrays, values = _block(module)
        else:
            assert isinstance(module, Head)
            arrays, values = _head(module)
        content = b"".join(array.astype("<f4").tobytes() for array in arrays)
        values["is_block"] = int(layer.is_block)
        files = {"": (f"layer-{number}.weights", content)}
        shapes = layer.inputs.shape, layer.outputs.shape
        layers.append(ExportedLayer(layer.name, *shapes, files, values))
    return layers


@torch.no_grad()
def _block(block: Block) -> tuple[list[np.ndarray], dict[str, object]]:
    arrays, hidden = [], []
    for layer in block.folded_layers():
        a, b, v = layer.scaled
        arrays += [a, b, v, layer.c]
        hidden.append(len(b))
    return [array.numpy() for array in arrays], {"hidden": hidden}


def _head(head: Head) -> tuple[list[np.ndarray], dict[str, object]]:
    arrays = [*head.fc1.parameters(), *head.fc2.parameters()]
    values = {"hidden": [head.fc1.out_features], "mean_of_nodes": int(head.takes_mean)}
    return [array.detach().numpy() for array in arrays], values
