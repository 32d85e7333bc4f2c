import shutil
import sys
from pathlib import Path


def mpiexec() -> str:
    """The launcher beside this Python, else the one on the path."""
    beside = Path(sys.executable).with_name("mpiexec")
    return str(beside) if beside.exists() else shutil.which("mpiexec") or "mpiexec"
