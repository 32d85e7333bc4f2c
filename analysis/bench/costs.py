"""Cost of the watchdog and of checkpoints in a run on two ranks.

    python -m analysis.bench.costs [--rounds N]

Runs with and without the watchdog alternate; the median times of their mini-batches are compared.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import mpi4py
import numpy as np

from analysis.bench.launcher import mpiexec

RUN = [
    *("--stages", "1", "--replicas", "2", "--chunks", "2", "--batch-size", "100", "--epochs", "1"),
    *("--dataset", "synthetic", "--steps", "12", "--test-steps", "1", "--checkpoint-steps", "4"),
    *("--progress", "off"),
]
CHECKPOINT_INTERVAL_S = 600.0  # the default of --checkpoint-minutes
PROGRAMS = {"with watchdog": "vigmpi", "without watchdog": "analysis.bench.costs"}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.costs",
        description="Measure the cost of the watchdog and of checkpoints.",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="number of runs with the watchdog, and without it"
    )
    rounds = parser.parse_args().rounds
    step_s: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    checkpoint_s = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            for name, program in PROGRAMS.items():
                record = Path(folder) / f"{name}{number}.h5"
                _run(program, record)
                with h5py.File(record) as file:
                    training = file["steps/phase"][:] == 0
                    steps = file["timings/step_s"][:][training].max(axis=1)
                    step_s[name].append(float(np.median(steps[1:])))
                    checkpoint_s.append(file.attrs["checkpoint_s"] / file.attrs["checkpoints"])
    ratios = np.array(step_s["with watchdog"]) / step_s["without watchdog"]
    for name, medians in step_s.items():
        print(f"{name}: {np.median(medians):.3f} s per mini-batch of 200 images")
    least, most = ratios.min(), ratios.max()
    print(f"time with / without watchdog: {np.median(ratios):.4f} ({least:.4f} to {most:.4f})")
    checkpoint = float(np.median(checkpoint_s))
    share = checkpoint / CHECKPOINT_INTERVAL_S
    print(f"one checkpoint: {checkpoint:.3f} s; one every ten minutes: {share:.4%}")


def _run(program: str, record: Path) -> None:
    command = [mpiexec(), "-n", "2", sys.executable, "-m", program, *RUN, "--record", str(record)]
    subprocess.run(command, check=True, capture_output=True)


def run_without_watchdog() -> int:
    """Run vigmpi on this rank without its watchdog and return the exit status."""
    mpi4py.rc.initialize = False  # vigmpi initializes MPI
    from vigmpi import launch  # noqa: PLC0415
    from vigmpi.__main__ import main as run  # noqa: PLC0415
    from vigmpi.monitor import watchdog  # noqa: PLC0415
    from vigmpi.monitor.activity import Activity  # noqa: PLC0415

    setattr(watchdog, "connect_monitors", lambda *_: None)  # noqa: B010 (mypy rejects an assignment)
    return run(sys.argv[1:], Activity(launch.rank(os.environ)))


if __name__ == "__main__":
    if "--record" in sys.argv:  # started by `_run`
        sys.exit(run_without_watchdog())
    main()
