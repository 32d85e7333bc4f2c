"""`vigmpi export`: a trained model as a library that runs without Python."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vigmpi.checkpoint.manifest import Manifest
from vigmpi.cli.config import ExportConfig
from vigmpi.commands.trained_model import load_trained_model
from vigmpi.datasets.cifar10 import Cifar10
from vigmpi.datasets.file_tree import printable
from vigmpi.errors import InputError, RunError, error_reason
from vigmpi.export import manifest as export_manifest
from vigmpi.export.c_form import exported_layers
from vigmpi.export.native_library import NativeModel, build, build_program, mpi_compiler
from vigmpi.models.model import Model
from vigmpi.standard_streams import print_result, show

_STUDY = "study"
_TOLERANCE = 1e-4  # of the largest logit; a compiler's error is larger
_NUM_IMAGES = 3


def export(config: ExportConfig) -> None:
    """Write a folder with the model's layers, compile its library, and compare its results.

    Raises:
        InputError: if the checkpoint cannot be read or exported, the folder cannot be written, or
            there is no compiler.
        RunError: if the compiled library computes something else than the model.
    """
    name = config.start.manifest.model if config.start.manifest else _STUDY
    if name != _STUDY:
        raise InputError(
            f"no C form of this model: --format c for --model {name}. Use a checkpoint of --model "
            f"{_STUDY}."
        )
    model, manifest = load_trained_model(config.start)
    unfinished = _new_folder(config)
    former = unfinished.with_suffix(".former")
    try:
        values = _description(model, manifest)
        instructions = build(unfinished) if config.build else []
        values["instructions"] = instructions
        export_manifest.write(unfinished, values, exported_layers(model))
        if config.build:
            _compare(model, unfinished)
            _build_program(unfinished)
        if config.overwrite and config.output.exists():
            config.output.rename(former)
        unfinished.rename(config.output)
    except OSError as error:
        raise _not_writable(config.output, error) from error
    finally:
        if former.exists() and not config.output.exists():
            former.rename(config.output)
        for folder in (unfinished, former):
            shutil.rmtree(folder, ignore_errors=True)
    print_result(f"exported: {config.output} ({len(model.layers)} layers)")


def _new_folder(config: ExportConfig) -> Path:
    """Make the folder in which the export is written before it gets its name."""
    output = config.output
    try:
        if output.exists():
            if not config.overwrite:
                raise InputError(f"output exists: {output}. Use --overwrite or another --output.")
            export_manifest.read(output)  # only an export is replaced
        folder = output.with_name(f".{output.name}.{os.getpid()}.part")
        folder.mkdir()
    except (OSError, ValueError) as error:  # ValueError: a path without a name
        raise _not_writable(output, error) from error
    return folder


def _build_program(folder: Path) -> None:
    if compiler := mpi_compiler():
        build_program(folder, compiler)
    else:
        show(
            "vigmpi: warning: no MPI program: mpicxx was not found. Set MPICXX to a compiler for "
            "C++ and MPI, and export again with --overwrite.\n"
        )


def _not_writable(path: Path, error: Exception) -> InputError:
    return InputError(
        f"cannot write the export: {path} ({error_reason(error)}). Use --output FOLDER to write "
        f"elsewhere."
    )


def _description(model: Model, manifest: Manifest | None) -> dict[str, Any]:
    """Return what the manifest says about the model."""
    _, height, width = model.layers[0].inputs.shape
    names = manifest.class_names if manifest else Cifar10.class_names
    mean, std = (manifest and manifest.normalization) or ([0.0] * 3, [1.0] * 3)
    return {
        "kind": "c",
        "model": _STUDY,
        "dtype": "float32",
        "image_size": [height, width],
        "num_classes": len(names),
        "classes": [printable(name) for name in names],
        "mean": list(mean),
        "std": list(std),
        "threads": 1,
    }


@torch.no_grad()
def _compare(model: Model, folder: Path) -> None:
    """Compare the library with the model on random images."""
    random = np.random.default_rng(0)
    images = random.normal(size=(_NUM_IMAGES, *model.layers[0].inputs.shape)).astype(np.float32)
    expected = model(torch.from_numpy(images)).numpy()
    if not np.isfinite(expected).all():
        raise InputError(
            "weights without finite logits: those of the checkpoint. Use another checkpoint."
        )
    with NativeModel(folder) as native:
        error = np.abs(native.run(images) - expected).max() / max(np.abs(expected).max(), 1e-30)
    if not error <= _TOLERANCE:
        raise RunError(
            f"the library differs from the model: by {error:.2g} of the largest logit. Set CC to "
            f"another compiler."
        )
