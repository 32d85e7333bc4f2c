"""A trained model outside of a run."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vigmpi.checkpoint.loading import load
from vigmpi.checkpoint.manifest import DamagedError, Manifest
from vigmpi.checkpoint.search import Checkpoint, newer
from vigmpi.checkpoint.state import state_by_layer
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.cifar10 import Cifar10
from vigmpi.models import build
from vigmpi.models.config import STUDY_READOUT
from vigmpi.models.model import Model, make_model
from vigmpi.standard_streams import show


def class_names(manifest: Manifest | None) -> Sequence[str]:
    """Return the names of the classes; those of CIFAR-10 for a file of the study's weights."""
    return manifest.class_names if manifest else Cifar10.class_names


def normalization(manifest: Manifest | None) -> Augmentation:
    """Return what a model's images are normalized with."""
    if manifest is None or not manifest.normalization:
        return Augmentation()
    mean, std = np.array(manifest.normalization)
    return Augmentation(mean=mean, std=std)


def load_trained_model(start: Checkpoint, backend: str = "fast") -> tuple[Model, Manifest | None]:
    """Return the model in evaluation mode, with the weights of the newest intact checkpoint.

    Args:
        backend: "fast", or "reference", whose features are fp32 always.

    Returns:
        The model, and the manifest of its checkpoint; None for a file of weights, which are those
        of the study's model.

    Raises:
        InputError: if the checkpoint cannot be read.
    """
    manifest = start.manifest
    if manifest:
        config = manifest.model_config
        if backend == "reference":
            config = replace(config, precision="fp32")
        model = make_model(manifest.model, config, backend=backend)
    else:
        model = build(backend=backend, readout=STUDY_READOUT)
    model.eval()
    state = state_by_layer(model)
    found = newer(start) or start
    try:
        loaded = load(found, state, state)
    except DamagedError:
        if not (instead := newer(found)):
            raise
        loaded = load(instead, state, state)
    for reason in loaded.skipped:
        show(f"vigmpi: warning: checkpoint skipped: {reason}.\n")
    return model, loaded.manifest
