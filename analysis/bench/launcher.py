"""The MPI launcher of the benchmarks."""

import shutil
import sys
from pathlib import Path


def mpiexec() -> str:
    """Return the mpiexec in the folder of this Python, or else the one on the PATH."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec") or "mpiexec"
