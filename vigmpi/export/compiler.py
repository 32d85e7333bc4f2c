"""Compilation of the library and the MPI program of an export."""

import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from vigmpi.errors import InputError, error_reason

LIBRARY, HEADER, PROGRAM = "libvigmpi_infer.so", "vigmpi_infer.h", "vigmpi_infer"
SOURCES = Path(str(files("vigmpi.export"))) / "native"
_C_FLAGS = ("-std=gnu11", "-O2", "-fPIC", "-Wall")
# None of the options that would let a NaN become a number.
_FAST = ("-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd")
_PACKAGES_FLAGS = ("-std=c++20", "-O1", "-fPIC", "-Wall")
# The MPI libraries' own bindings for C++, which are no longer C++.
_PROGRAM_FLAGS = ("-std=c++17", "-O2", "-Wall", "-DMPICH_SKIP_MPICXX", "-DOMPI_SKIP_MPICXX")
_ERRORS = (": error:", ": fatal error:", "cannot find", "undefined reference")
_COMMON = ("error", "sha256", "manifest", "processor", "model")
_PROGRAM_SOURCES = ("infer", "options", "requests", "clock", "links", "npy")
# Those of x86 that __builtin_cpu_supports knows and the compilers may use in loops.
_INSTRUCTIONS = ("sse4.2", "avx", "avx2", "fma", "bmi", "bmi2")
_AVX512 = ("avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512vnni")


def build_c(folder: Path, instructions: Sequence[str]) -> None:
    """Compile the library for the study's model in C, and copy its header, into a folder.

    The compiler is `cc`, or the one that the environment variable CC names.

    Args:
        instructions: sets of instructions that the library may use; it checks that they exist.

    Raises:
        InputError: if there is no compiler, or it fails.
        OSError: if a file cannot be written.
    """
    # Not -march=native, which enables instructions that the library does not check.
    flags = [*_FAST, *(f"-m{name}" for name in instructions)]
    if "avx512f" in instructions:
        flags.append("-mprefer-vector-width=512")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        own = f"{scratch}/study.o"
        _run([c_compiler(), *_C_FLAGS, *flags, "-c", str(SOURCES / "study.c"), "-o", own])
        _link([c_compiler(), own, "-lm"], folder, instructions)


def build_packages(folder: Path, instructions: Sequence[str]) -> None:
    """Compile the library that runs packages, and copy its header, into a folder.

    The compiler for C++ is `c++`, or the one that the environment variable CXX names. The library
    finds torch's libraries where they are installed now.

    Args:
        instructions: sets of instructions that the packages use; the library checks that they
            exist.

    Raises:
        InputError: if there is no compiler, or it fails.
        OSError: if a file cannot be written.
    """
    import torch  # noqa: PLC0415 (the C form needs only its compiler)
    from torch.utils.cpp_extension import include_paths, library_paths  # noqa: PLC0415

    compiler = os.environ.get("CXX", "c++")
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    flags = [*_PACKAGES_FLAGS, abi, *(f"-isystem{path}" for path in include_paths())]
    libraries = [flag for path in library_paths() for flag in (f"-L{path}", f"-Wl,-rpath,{path}")]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        own = f"{scratch}/packages.o"
        _run([compiler, *flags, "-c", str(SOURCES / "packages.cpp"), "-o", own])
        link = [compiler, own, *libraries, "-ltorch", "-ltorch_cpu", "-lc10"]
        _link(link, folder, instructions)


def _link(command: Sequence[str], folder: Path, instructions: Sequence[str]) -> None:
    """Compile the files of both forms and link the library."""
    checks = " ".join(f'X("{name}")' for name in instructions)
    flags = [*_C_FLAGS, f"-DVIGMPI_INSTRUCTIONS={checks}"]
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for name in _COMMON:
            source, target = str(SOURCES / f"{name}.c"), f"{scratch}/{name}.o"
            _run([c_compiler(), *flags, "-c", source, "-o", target])
        objects = [f"{scratch}/{name}.o" for name in _COMMON]
        name = f"-Wl,-soname,{LIBRARY}"  # programs find it where they are, not where it was built
        compiler, *rest = command
        output = ["-o", str(folder / LIBRARY)]
        _run([compiler, "-shared", name, *objects, *rest, *output])
    shutil.copy(SOURCES / HEADER, folder)


def c_compiler() -> str:
    return os.environ.get("CC", "cc")


def mpi_compiler() -> str | None:
    """Return `mpicxx`, or what MPICXX names; None if there is no such program."""
    compiler = os.environ.get("MPICXX", "mpicxx")
    return compiler if shutil.which(compiler) else None


def build_program(folder: Path, compiler: str) -> None:
    """Compile the MPI program into a folder that contains the library.

    Raises:
        InputError: if the compiler fails.
    """
    sources = [str(SOURCES / f"{name}.cpp") for name in _PROGRAM_SOURCES]
    library = [f"-L{folder}", "-lvigmpi_infer", "-Wl,-rpath,$ORIGIN"]
    _run([compiler, *_PROGRAM_FLAGS, *sources, *library, "-o", str(folder / PROGRAM)])


def processor_instructions() -> list[str]:
    """Return the sets of instructions of this machine's processor that code may use.

    Raises:
        InputError: if there is no compiler, or it fails.
    """
    if platform.machine() != "x86_64":
        return []
    macros = _run([c_compiler(), "-march=native", "-dM", "-E", "-x", "c", "/dev/null"])
    return [name for name in (*_INSTRUCTIONS, *_AVX512) if f" {_macro(name)} 1" in macros]


def _macro(instructions: str) -> str:
    return f"__{instructions.upper().replace('.', '_')}__"


def _run(command: Sequence[str]) -> str:
    environ = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(command, capture_output=True, env=environ, check=False)
    except OSError as error:
        raise InputError(
            f"cannot run the compiler: {command[0]} ({error_reason(error)}). Install it, or set CC "
            f"and CXX to others."
        ) from error
    if done.returncode:
        line = telling_line(done.stderr.decode(errors="backslashreplace"))
        raise InputError(
            f"the compiler failed: {command[0]} ({line}). Use another one by setting CC, CXX and "
            f"MPICXX, or omit --build."
        )
    return done.stdout.decode(errors="backslashreplace")


def telling_line(output: str) -> str:
    """Return the line of a compiler's output that says what is wrong, shortened."""
    lines = output.splitlines()
    telling = [line for line in lines if any(word in line for word in _ERRORS)]
    return f"{[*telling, *lines, 'no message'][0]:.300}"
