"""Real processes, with a time limit and without leftovers."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import h5py

from vigmpi.__main__ import main
from vigmpi.monitor.activity import Activity

ROOT = Path(__file__).parents[1]

# Open MPI's mpiexec needs these variables to run as root and to start more ranks than cores.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PYTHONPATH": str(ROOT),
}


def start(
    command: Sequence[str],
    cwd: Path = ROOT,
    environ: Mapping[str, str] | None = None,
    stdin: int = subprocess.DEVNULL,
    stderr: int | IO[str] = subprocess.PIPE,
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **ENVIRONMENT, **(environ or {})},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float) -> subprocess.CompletedProcess[str]:
    """Wait for a process, then kill all processes of its session that still run.

    Raises:
        AssertionError: if the process exceeds its time limit; the message contains its output.
    """
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        raise AssertionError(f"{process.args!r} exceeded {timeout} s\n{out}\n{err}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def mpiexec(ranks: int) -> list[str]:
    """Return the launcher of the MPI library that this Python uses, with its arguments."""
    same_folder = Path(sys.executable).with_name("mpiexec")
    launcher = str(same_folder) if same_folder.exists() else shutil.which("mpiexec")
    assert launcher, "mpiexec not found. Use pip install -e '.[mpi,test]' or load an MPI module."
    return [launcher, "-n", str(ranks)]


def vigmpi(*arguments: str, ranks: int | None = None) -> list[str]:
    """Return the command line of a run; without a launcher if `ranks` is None."""
    launcher = mpiexec(ranks) if ranks else []
    return [*launcher, sys.executable, "-m", "vigmpi", *arguments]


def steps_done(record: Path) -> int:
    """Return the number of mini-batches that a record currently holds."""
    try:
        with h5py.File(record, locking=False) as file:
            return int(file.attrs["steps_done"])
    except (OSError, KeyError):  # the file does not exist yet, or is being flushed
        return 0


def wait_until(holds: Callable[[], bool], timeout: float = 120) -> None:
    limit = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.2)


def prepare(*arguments: str | Path) -> int:
    """Run `vigmpi prepare` in this process and return its exit status."""
    return main(["prepare", *map(str, arguments)], Activity(rank=0))
