"""Compilation of layers to packages of AOTInductor."""

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vigmpi.errors import InputError, RunError, error_reason
from vigmpi.export.compiler import telling_line
from vigmpi.export.torch_form import ExportableLayer
from vigmpi.worker_pool import worker_pool

_MIN_BATCH = 2  # torch.export makes a constant of a batch of 0 or 1 images
_EXAMPLE = 5  # images, for the trace
# Levels of x86 by what they need and the manifest names, and the bits of their vectors.
_V3 = ("avx2", "fma", "bmi", "bmi2")
_V4 = (*_V3, "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl")
_LEVELS = (("x86-64-v3", _V3, 256), ("x86-64-v4", _V4, 512))
_TOLERANCE = 1e-3  # of the largest value; a compiler's error is larger
_AGREEING = 0.95  # least share of the values, where rounding may choose other neighbours


@dataclass(frozen=True)
class Target:
    """Batches, threads and processor for which packages are compiled.

    Attributes:
        max_batch_size: number of images in the largest batch, at least 3.
        threads: number of threads that each operation uses.
        instructions: sets of instructions that the code may use (`compiler.py` names them).
    """

    max_batch_size: int
    threads: int
    instructions: tuple[str, ...]


@dataclass(frozen=True)
class _Job:
    layer: ExportableLayer
    name: str
    single: bool
    target: Target
    path: Path


def compile_layers(
    layers: Mapping[str, ExportableLayer], target: Target, folder: Path, workers: int
) -> Iterator[tuple[bytes, bytes]]:
    """Compile each layer for batches and for a single image, and compare the results.

    Args:
        layers: the layers by their names.
        folder: where files may be written; they are removed.
        workers: number of processes.

    Yields:
        The contents of both packages of a layer.

    Raises:
        InputError: if there is no compiler, or it fails.
        RunError: if a package computes something else than its layer, or a process dies.
        OSError: if a file cannot be written.
    """
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        jobs = [
            [
                _Job(layer, name, single, target, Path(scratch, f"{index}-{int(single)}.pt2"))
                for single in (False, True)
            ]
            for index, (name, layer) in enumerate(layers.items())
        ]
        with worker_pool(workers, "compiles all layers") as pool:
            pending = [[pool.submit(_compile, job) for job in pair] for pair in jobs]
            for batch, single in pending:
                try:
                    contents = batch.result(), single.result()
                except BrokenProcessPool as error:
                    raise RunError(
                        "a process that compiled layers died: perhaps the memory did not suffice. "
                        "Use a smaller --max-batch-size."
                    ) from error
                yield contents


def _compile(job: _Job) -> bytes:
    """Return the content of a package that has been compared with its layer."""
    from torch._inductor.exc import InductorError  # noqa: PLC0415 (takes seconds)

    warnings.simplefilter("ignore")  # torch's own
    torch.set_num_threads(job.target.threads)
    try:
        with torch.no_grad():
            _write_package(job)
            _compare(job)
    except InductorError as error:
        raise _described(error.inner_exception, job.name) from error
    return job.path.read_bytes()


def _described(error: Exception, layer: str) -> Exception:
    """Return the InputError that describes an error of the compilation, or the error itself."""
    from torch._inductor.exc import CppCompileError, InvalidCxxCompiler  # noqa: PLC0415

    if isinstance(error, InvalidCxxCompiler):
        compiler = os.environ.get("CXX", "g++")
        return InputError(
            f"no compiler for C++: {compiler} cannot be used. Install it, or set CXX to another "
            f"one."
        )
    if isinstance(error, CppCompileError):
        line = telling_line(str(error))
        return InputError(f"the compiler failed: {layer} ({line}). Set CXX to another one.")
    if isinstance(error, OSError):
        return InputError(
            f"cannot compile: {layer} ({error_reason(error)}). Free space in the temporary folder, "
            f"or set TORCHINDUCTOR_CACHE_DIR to another one."
        )
    return error


def _write_package(job: _Job) -> None:
    from torch._inductor import aoti_compile_and_package  # noqa: PLC0415 (takes seconds)

    largest = job.target.max_batch_size
    images = torch.export.Dim("images", min=_MIN_BATCH, max=largest)
    # Traced with as many images as the largest batch, convolutions would take no other number.
    example = max(_MIN_BATCH, min(_EXAMPLE, largest - 1))
    program = torch.export.export(
        job.layer,
        (job.layer.random_input(1 if job.single else example),),
        dynamic_shapes=None if job.single else {"values": {0: images}},
        strict=False,
    )
    aoti_compile_and_package(program, package_path=str(job.path), inductor_configs=_options(job))


def _options(job: _Job) -> dict[str, Any]:
    """Return options with which the code needs no instructions but those of the target."""
    march, width = "", 1  # code without vectors, where the library checks no instructions
    for level, needed, bits in _LEVELS:
        if set(needed) <= set(job.target.instructions):
            march, width = level, bits
    return {"cpp.threads": job.target.threads, "cpp.march": march, "cpp.simdlen": width}


def _compare(job: _Job) -> None:
    from torch._inductor import aoti_load_package  # noqa: PLC0415 (takes seconds)

    package = aoti_load_package(str(job.path))
    for images in (1,) if job.single else (_MIN_BATCH, job.target.max_batch_size):
        values = job.layer.random_input(images)
        expected, actual = job.layer(values), package(values)
        if not expected.isfinite().all():
            raise InputError(
                f"weights without finite features: {job.name} of the checkpoint. Use another "
                f"checkpoint."
            )
        if not agree(actual, expected, has_neighbours=job.layer.has_neighbours):
            raise RunError(
                f"the package differs from the layer: {job.name}, for a batch of {images}. Set "
                f"CXX to another compiler."
            )


def agree(actual: Tensor, expected: Tensor, *, has_neighbours: bool) -> bool:
    """Return whether compiled code computes a layer's output.

    Args:
        has_neighbours: whether rounding may choose other neighbours for some of the nodes.
    """
    if actual.shape != expected.shape:
        return False
    equal = (actual - expected).abs() <= _TOLERANCE * expected.abs().max()
    return bool(equal.double().mean() >= (_AGREEING if has_neighbours else 1))
