"""Compilation of the C library and the MPI program, and the library's use from Python."""

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vigmpi.errors import InputError, RunError, error_reason

LIBRARY, HEADER, PROGRAM = "libvigmpi_infer.so", "vigmpi_infer.h", "vigmpi_infer"
_COMMON = ("-std=gnu11", "-O2", "-fPIC", "-Wall")
# None of the options that would let a NaN become a number.
_FAST = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
# The MPI libraries' own bindings for C++, which are no longer C++.
_PROGRAM_FLAGS = ("-std=c++17", "-O2", "-Wall", "-DMPICH_SKIP_MPICXX", "-DOMPI_SKIP_MPICXX")
_ERRORS = (": error:", ": fatal error:", "cannot find", "undefined reference")
_PROGRAM_SOURCES = ("infer", "npy", "links")
_PORTABLE, _FOR_THIS_PROCESSOR = ("error", "sha256", "manifest", "processor"), ("study",)
# Those of x86 that __builtin_cpu_supports knows and the compiler may use in loops.
_INSTRUCTIONS = ("sse4.2", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512dq", "avx512vl")
_INPUT = 1  # VIGMPI_INPUT
SOURCES = Path(str(files("vigmpi.export"))) / "native"


def build(folder: Path) -> list[str]:
    """Compile the library for this machine's processor, and copy its header, into a folder.

    The compiler is `cc`, or the one that the environment variable CC names.

    Returns:
        The sets of instructions that it needs.

    Raises:
        InputError: if there is no compiler, or it fails.
        OSError: if a file cannot be written.
    """
    compiler = os.environ.get("CC", "cc")
    needed = _instructions(compiler)
    # Not -march=native, which enables instructions that the library does not check.
    fast = [*_FAST, *(f"-m{name}" for name in needed)]
    if "avx512f" in needed:
        fast.append("-mprefer-vector-width=512")
    checks = " ".join(f'X("{name}")' for name in needed)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for name in (*_PORTABLE, *_FOR_THIS_PROCESSOR):
            flags = fast if name in _FOR_THIS_PROCESSOR else [f"-DVIGMPI_INSTRUCTIONS={checks}"]
            file = str(SOURCES / f"{name}.c")
            _run([compiler, *_COMMON, *flags, "-c", file, "-o", f"{scratch}/{name}.o"])
        objects = [str(path) for path in sorted(Path(scratch).iterdir())]
        name = f"-Wl,-soname,{LIBRARY}"  # programs find it where they are, not where it was built
        _run([compiler, "-shared", name, *objects, "-lm", "-o", str(folder / LIBRARY)])
    shutil.copy(SOURCES / HEADER, folder)
    return needed


def mpi_compiler() -> str | None:
    """Return `mpicxx`, or what MPICXX names; None if there is no such program."""
    compiler = os.environ.get("MPICXX", "mpicxx")
    return compiler if shutil.which(compiler) else None


def build_program(folder: Path, compiler: str) -> None:
    """Compile the MPI program into a folder that contains the library.

    Raises:
        InputError: if the compiler fails.
    """
    files_to_compile = [str(SOURCES / f"{name}.cpp") for name in _PROGRAM_SOURCES]
    library = [f"-L{folder}", "-lvigmpi_infer", "-Wl,-rpath,$ORIGIN"]
    _run([compiler, *_PROGRAM_FLAGS, *files_to_compile, *library, "-o", str(folder / PROGRAM)])


def _instructions(compiler: str) -> list[str]:
    if platform.machine() != "x86_64":
        return []
    macros = _run([compiler, "-march=native", "-dM", "-E", "-x", "c", "/dev/null"])
    return [name for name in _INSTRUCTIONS if f" {_macro(name)} 1" in macros]


def _macro(instructions: str) -> str:
    return f"__{instructions.upper().replace('.', '_')}__"


def _run(command: Sequence[str]) -> str:
    environ = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, env=environ, check=False)
    except OSError as error:
        raise InputError(
            f"cannot run the compiler: {command[0]} ({error_reason(error)}). Install it or set CC, "
            f"or omit --build."
        ) from error
    if done.returncode:
        lines = done.stderr.decode(errors="backslashreplace").splitlines()
        telling = [line for line in lines if any(word in line for word in _ERRORS)]
        raise InputError(
            f"the compiler failed: {command[0]} ({[*telling, *lines, 'no message'][0]:.300}). Use "
            f"another one by setting CC and MPICXX, or omit --build."
        )
    return done.stdout.decode(errors="backslashreplace")


class NativeModel:
    """Layers of an export, run by its C library.

    Args:
        folder: the export, with the library that `build` has compiled.
        first, num_layers: the layers; 0 for all from `first` on.

    Raises:
        InputError: if the library or the export cannot be used.
    """

    def __init__(self, folder: Path, first: int = 0, num_layers: int = 0) -> None:
        try:
            self._library = library = ctypes.CDLL(str((folder / LIBRARY).resolve()))
        except OSError as error:
            raise InputError(
                f"cannot load the library: {folder / LIBRARY} ({error!s:.200}). Run vigmpi export "
                f"with --build."
            ) from error
        library.vigmpi_last_error.restype = library.vigmpi_class_name.restype = ctypes.c_char_p
        self._model = ctypes.c_void_p()
        path = str(folder).encode(errors="surrogateescape")
        self._check(library.vigmpi_open(path, first, num_layers, ctypes.byref(self._model)))
        self.inputs = library.vigmpi_input_values(self._model)
        self.outputs = library.vigmpi_output_values(self._model)
        self.num_layers = library.vigmpi_num_layers(self._model)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._library.vigmpi_close(self._model)

    def run(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the last layer's output, [images, values], for input [images, ...]."""
        values = np.ascontiguousarray(images, np.float32).reshape(len(images), self.inputs)
        output = np.empty((len(images), self.outputs), np.float32)
        pointers = (ctypes.c_void_p(array.ctypes.data) for array in (values, output))
        source, target = pointers
        self._check(self._library.vigmpi_run(self._model, source, len(images), target))
        return output

    def normalized(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the input of layer 0 for pixels [images, height, width, 3]."""
        values = np.empty((len(pixels), self.inputs), np.float32)
        content = np.ascontiguousarray(pixels)
        source, target = (ctypes.c_void_p(array.ctypes.data) for array in (content, values))
        self._check(self._library.vigmpi_normalize(self._model, source, len(pixels), target))
        return values

    def class_name(self, index: int) -> str:
        name: bytes = self._library.vigmpi_class_name(self._model, index)
        return name.decode()

    def _check(self, status: int) -> None:
        if status:
            message: Any = self._library.vigmpi_last_error()
            error = InputError if status == _INPUT else RunError
            raise error(message.decode(errors="backslashreplace"))
