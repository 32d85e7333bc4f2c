"""Runs of vigmpi in a given checkout, which may be another one than this."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from analysis.bench.launcher import mpiexec

STUDY = ("--config", str(Path(__file__).resolve().parents[2] / "jobs/study.toml"))
_TIMEOUT_S = 300


def run(
    checkout: Path, options: Sequence[str], *, ranks: int | None = None, command: str = "train"
) -> float:
    """Run vigmpi from a checkout and return its wall time in seconds.

    Args:
        checkout: root folder of the checkout.
        options: command-line options.
        ranks: number of ranks; None to run without a launcher.
        command: command of vigmpi.

    Raises:
        RuntimeError: if the run fails; the message contains what it printed.
    """
    launcher = [mpiexec(), "-n", str(ranks)] if ranks else []
    program = [sys.executable, "-m", "vigmpi", command]
    start = time.perf_counter()
    done = subprocess.run(
        [*launcher, *program, *options],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode != 0:
        raise RuntimeError(f"{checkout}: {' '.join(done.args)}\n{done.stderr}")
    return seconds
