"""What safety costs a run of two ranks: the watchdog, and checkpoints.

    python -m analysis.bench.costs [--rounds N]

Runs with and without the watchdog take turns; the medians of their mini-batches are compared.
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
TEN_MINUTES_S = 600.0  # from one checkpoint to the next, by default
PROGRAMS = {"watched": "vigmpi", "unwatched": "analysis.bench.costs"}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.costs",
        description="What watchdog and checkpoints cost.",
    )
    parser.add_argument("--rounds", type=int, default=5, help="runs with, and runs without")
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
    ratios = np.array(step_s["watched"]) / step_s["unwatched"]
    for name, medians in step_s.items():
        print(f"{name:9}  a mini-batch of 200 images takes {np.median(medians):.3f} s")
    least, most = ratios.min(), ratios.max()
    print(f"watched over unwatched: {np.median(ratios):.4f} ({least:.4f} to {most:.4f})")
    each = float(np.median(checkpoint_s))
    print(f"a checkpoint takes {each:.3f} s; one in ten minutes: {each / TEN_MINUTES_S:.4%}")


def _run(program: str, record: Path) -> None:
    command = [mpiexec(), "-n", "2", sys.executable, "-m", program, *RUN, "--record", str(record)]
    subprocess.run(command, check=True, capture_output=True)


def unwatched() -> int:
    """A rank of a run without its watchdog."""
    mpi4py.rc.initialize = False  # vigmpi does it
    from vigmpi import launch  # noqa: PLC0415
    from vigmpi.__main__ import main as run  # noqa: PLC0415
    from vigmpi.monitor import watchdog  # noqa: PLC0415
    from vigmpi.monitor.activity import Activity  # noqa: PLC0415

    setattr(watchdog, "connect_monitors", lambda *_: None)  # noqa: B010 (the type checker's rule)
    return run(sys.argv[1:], Activity(launch.rank(os.environ)))


if __name__ == "__main__":
    if "--record" in sys.argv:  # a rank of `_run`
        sys.exit(unwatched())
    main()
