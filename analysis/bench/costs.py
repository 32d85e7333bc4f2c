"""What being safe costs a run: the watchdog, checkpoints, readiness to lose ranks.

    python -m analysis.bench.costs [--rounds N]

Runs of two ranks, some without the watchdog, some ready to go on without a rank that dies (where
MPI and its launcher can), take turns; the medians of their mini-batches are compared.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

RUN = [
    *("--stages", "1", "--replicas", "2", "--chunks", "2", "--batch-size", "100", "--epochs", "1"),
    *("--dataset", "synthetic", "--steps", "12", "--test-steps", "1", "--checkpoint-steps", "4"),
    *("--progress", "off", "--overwrite"),
]
CONTENDERS = ("as it is", "without the watchdog", "ready to lose a rank")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m analysis.bench.costs", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each contender")
    parser.add_argument("--launcher", default="mpiexec", help="with its arguments, but for -n")
    arguments = parser.parse_args()
    launcher = arguments.launcher.split()
    able = "ulfm" in launcher
    names = [name for name in CONTENDERS if able or "lose" not in name]
    step_s: dict[str, list[float]] = {name: [] for name in names}
    checkpoint_s, share = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            for name in names:
                record = _run(launcher, name, Path(folder) / "run.h5")
                with h5py.File(record) as file:
                    done = file["steps/phase"][:] == 0
                    steps = file["timings/step_s"][:][done].max(axis=1)[1:]
                    step_s[name].append(float(np.median(steps)))
                    checkpoint_s.append(file.attrs["checkpoint_s"] / file.attrs["checkpoints"])
                    share.append(checkpoint_s[-1] / np.median(steps))
    for name, medians in step_s.items():
        ratio = np.median(np.array(medians) / step_s["as it is"])
        print(f"{name:22}  step {np.median(medians):.3f} s  {ratio:.4f} of as it is")
    print(
        f"a checkpoint takes {np.median(checkpoint_s):.3f} s, {np.median(share):.1%} of a step of "
        f"200 images: {np.median(checkpoint_s) / 600:.4%} of a run with one every ten minutes"
    )


def _run(launcher: list[str], name: str, record: Path) -> Path:
    flags = ["--on-failure", "continue"] if "lose" in name else []
    program = ["-m", "analysis.bench.costs"] if "without" in name else ["-m", "vigmpi"]
    environment = {**os.environ, "VIGMPI_UNWATCHED": "1"} if "without" in name else os.environ
    command = [*launcher, "-n", "2", sys.executable, *program, *RUN, *flags]
    subprocess.run(
        [*command, "--output", str(record)], env=environment, check=True, stdout=subprocess.DEVNULL
    )
    return record


def unwatched() -> int:
    """A rank of a run without its watchdog."""
    from vigmpi import launch  # noqa: PLC0415
    from vigmpi.__main__ import main as run  # noqa: PLC0415
    from vigmpi.runtime import watchdog  # noqa: PLC0415
    from vigmpi.runtime.activity import Activity  # noqa: PLC0415

    setattr(watchdog, "open_lines", lambda *_: None)  # noqa: B010 (the type checker's rule)
    return run(sys.argv[1:], Activity(launch.rank(os.environ)))


if __name__ == "__main__":
    if "VIGMPI_UNWATCHED" in os.environ:
        sys.exit(unwatched())
    main()
