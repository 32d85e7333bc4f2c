"""`vigmpi export`: a trained model for programs that run without Python."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vigmpi.checkpoint.manifest import Manifest
from vigmpi.cli.config import ExportConfig
from vigmpi.commands.trained_model import class_names, load_trained_model
from vigmpi.datasets.file_tree import printable
from vigmpi.errors import InputError, RunError, error_reason
from vigmpi.export import c_form, packages, torch_form
from vigmpi.export import manifest as export_manifest
from vigmpi.export.compiler import (
    build_c,
    build_packages,
    build_program,
    mpi_compiler,
    processor_instructions,
)
from vigmpi.export.manifest import ExportedLayer
from vigmpi.export.native_library import NativeModel
from vigmpi.export.torch_form import ExportableLayer
from vigmpi.host import num_cores
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
        RunError: if something that was compiled computes something else than the model.
    """
    name = config.start.manifest.model if config.start.manifest else _STUDY
    if config.format == "c":
        _check_c_form(config, name)
    with _new_folder(config) as folder:
        write = _write_c_form if config.format == "c" else _write_packages
        num_layers = write(config, name, folder)
        if config.build:
            _build_program(folder)
    print_result(f"exported: {config.output} ({num_layers} layers)")


def _check_c_form(config: ExportConfig, model: str) -> None:
    if model != _STUDY:
        raise InputError(
            f"no C form of this model: --format c for --model {model}. Use --format packages."
        )
    defaults = ExportConfig(config.start, config.format, config.output)
    for name in ("dtype", "threads", "max_batch_size"):
        if (value := getattr(config, name)) != getattr(defaults, name):
            flag = f"--{name.replace('_', '-')}"
            raise InputError(
                f"option of another form: {flag} {value} with --format c. Omit {flag}, or use "
                f"--format packages."
            )


def _write_c_form(config: ExportConfig, name: str, folder: Path) -> int:
    model, manifest = load_trained_model(config.start)
    instructions = processor_instructions() if config.build else []
    values = {
        "form": "c",
        **_description(name, model, manifest),
        "dtype": "float32",
        "instructions": instructions,
    }
    export_manifest.write(folder, values, c_form.exported_layers(model))
    if config.build:
        build_c(folder, instructions)
        _compare(model, folder)
    return len(model.layers)


def _write_packages(config: ExportConfig, name: str, folder: Path) -> int:
    # The fast backend collapses the study's model; that of the others cannot be exported.
    backend = "fast" if name == _STUDY else "reference"
    model, manifest = load_trained_model(config.start, backend)
    instructions = processor_instructions()
    values = {
        "form": "packages",
        **_description(name, model, manifest),
        "dtype": config.dtype,
        "max_batch_size": config.max_batch_size,
        "threads": config.threads,
        "torch": torch.__version__,
        "instructions": instructions,
    }
    target = packages.Target(config.max_batch_size, config.threads, tuple(instructions))
    dtype = {"float32": torch.float32, "float64": torch.float64}[config.dtype]
    exportable = torch_form.exportable_layers(model, dtype)
    layers = _packages(model, exportable, target, folder)
    export_manifest.write(folder, values, layers)
    if config.build:
        build_packages(folder, instructions)
        _compare_layers(exportable, folder)
    return len(model.layers)


def _packages(
    model: Model, exportable: Sequence[ExportableLayer], target: packages.Target, folder: Path
) -> Iterator[ExportedLayer]:
    """Compile all layers, and show each that is ready."""
    names = [layer.name for layer in model.layers]
    by_name = dict(zip(names, exportable, strict=True))
    compiled = packages.compile_layers(by_name, target, folder, num_cores())
    for number, (layer, (batch, single)) in enumerate(zip(model.layers, compiled, strict=True)):
        show(f"compiled: {layer.name} ({number + 1} of {len(names)})\n")
        yield ExportedLayer(
            layer.name,
            layer.inputs.memory_shape,
            layer.outputs.memory_shape,
            {
                "": (f"layer-{number}.pt2", batch),
                "single_": (f"layer-{number}-single.pt2", single),
            },
            {"is_block": int(layer.is_block)},
        )


@contextmanager
def _new_folder(config: ExportConfig) -> Iterator[Path]:
    """Make the folder in which the export is written; it gets its name at the end."""
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
    former = folder.with_suffix(".former")
    try:
        yield folder
        if config.overwrite and output.exists():
            output.rename(former)
        folder.rename(output)
    except OSError as error:
        raise _not_writable(output, error) from error
    finally:
        if former.exists() and not output.exists():
            former.rename(output)
        for path in (folder, former):
            shutil.rmtree(path, ignore_errors=True)


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


def _description(name: str, model: Model, manifest: Manifest | None) -> dict[str, Any]:
    """Return what the manifest says about the model."""
    _, height, width = model.layers[0].inputs.shape
    names = class_names(manifest)
    mean, std = (manifest and manifest.normalization) or ([0.0] * 3, [1.0] * 3)
    return {
        "model": name,
        "image_size": [height, width],
        "num_classes": len(names),
        "classes": [printable(name) for name in names],
        "mean": list(mean),
        "std": list(std),
    }


@torch.no_grad()
def _compare_layers(layers: Sequence[ExportableLayer], folder: Path) -> None:
    """Compare each layer that the library runs with the layer itself."""
    for number, layer in enumerate(layers):
        with NativeModel(folder, number, 1) as native:
            for images in (1, _NUM_IMAGES):
                values = layer.random_input(images)
                expected = layer(values)
                actual = torch.from_numpy(native.run(values.numpy())).view_as(expected)
                if not packages.agree(actual, expected, has_neighbours=layer.has_neighbours):
                    raise RunError(
                        f"the library differs from the model: in layer {number}, for {images} "
                        f"images. Set CXX to another compiler."
                    )


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
