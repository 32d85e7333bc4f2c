"""Exports of models with random weights and statistics."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from vigmpi.export import manifest
from vigmpi.export.c_form import exported_layers
from vigmpi.models.config import ModelConfig
from vigmpi.models.model import Model, make_model
from vigmpi.models.normalization import MicroBatchNorm

CLASSES = ("cat", 'say "owl"', "back\\slash", "Käse 猫 🙂", "4", "5", "6")
MEAN, STD = (0.5, 0.25, 0.125), (0.5, 1.0, 2.0)
NATIVE = Path(manifest.__file__).with_name("native")


def need_compilers(*names: str) -> None:
    """Skip the test without these compilers, but in CI."""
    missing = [name for name in names if shutil.which(name) is None]
    if missing and "VIGMPI_NEED_COMPILERS" not in os.environ:
        pytest.skip(f"needs {', '.join(missing)}")


def random_generator() -> np.random.Generator:
    """Return a generator whose seed is printed."""
    seed = int(np.random.default_rng().integers(2**31))
    print("seed", seed)
    return np.random.default_rng(seed)


def study(size: tuple[int, int] = (32, 32), blocks: int = 3, readout: str = "mean") -> Model:
    """Return a model whose norms have statistics and weights of their own."""
    config = ModelConfig(len(CLASSES), size, blocks=blocks, readout=readout)
    random = random_generator()
    model = make_model("study", config, seed=int(random.integers(2**31))).eval()
    return with_statistics(model, random)


def with_statistics(model: Model, random: np.random.Generator) -> Model:
    """Give the norms of a model random statistics and weights."""
    for module in model.modules():
        if isinstance(module, MicroBatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                tensor.copy_(torch.from_numpy(random.uniform(low, high, len(tensor))))
    return model


def exported(model: Model, built: Path, folder: Path) -> Path:
    """Write an export into a new folder, with the files of `built`."""
    shutil.copytree(built, folder)
    _, height, width = model.layers[0].inputs.shape
    values = {
        "form": "c",
        "dtype": "float32",
        "image_size": [height, width],
        "num_classes": len(CLASSES),
        "classes": CLASSES,
        "mean": MEAN,
        "std": STD,
    }
    manifest.write(folder, values, exported_layers(model))
    return folder


def images(model: Model, number: int) -> np.ndarray:
    """Return normalized random images, float32 [images, 3, height, width]."""
    shape = (number, *model.layers[0].inputs.shape)
    return random_generator().normal(size=shape).astype(np.float32)
