"""Images per second of wide layouts by the closed form, from the times of their stages.

    python -m analysis.bench.wide_inference --checkpoint PATH --images FILE.npy --export NAME=FOLDER

One batch is in flight, so that the stages work one after the other and need no more cores than
there are. R replicas of a pipeline of S stages that take t_s for a batch of B images classify at
most R B / max t_s images a second.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np

from analysis.bench.launcher import mpiexec
from vigmpi.commands.latency import summarize
from vigmpi.host import processor_name

_RANKS = (4, 8)
_BATCHES, _WARM_UP = 24, 4


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.wide_inference",
        description=(__doc__ or "").split("\n")[0],
    )
    parser.add_argument("--checkpoint", required=True, help="checkpoint for vigmpi infer")
    parser.add_argument("--images", required=True, help="file of images")
    parser.add_argument("--export", action="append", default=[], help="NAME=FOLDER")
    parser.add_argument(
        "--stages", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of stages"
    )
    parser.add_argument("--batch-size", type=int, default=16, help="images in a batch")
    parser.add_argument(
        "--output", type=Path, default=Path("wide-inference.h5"), help="HDF5 file to write"
    )
    arguments = parser.parse_args()
    infer = [sys.executable, "-m", "vigmpi", "infer", "--checkpoint", arguments.checkpoint]
    programs = {"vigmpi infer": [*infer, "--images", arguments.images, "--threads", "1"]}
    for export in arguments.export:
        name, _, folder = export.partition("=")
        programs[name] = [f"{folder}/vigmpi_infer", folder, arguments.images]
    batch_size = arguments.batch_size
    seconds = {
        name: {stages: slowest_stage(program, stages, batch_size) for stages in arguments.stages}
        for name, program in programs.items()
    }
    layouts = [(s, n // s) for n in _RANKS for s in reversed(arguments.stages) if s <= n]
    print("| program | " + " | ".join(f"{s} x {r}" for s, r in layouts) + " |")
    for name, of_stages in seconds.items():
        rates = [replicas * batch_size / of_stages[stages] for stages, replicas in layouts]
        print(f"| {name} | " + " | ".join(f"{rate:.1f}" for rate in rates) + " |")
    with h5py.File(arguments.output, "w") as file:
        file.attrs.update(processor=processor_name(), cores=os.cpu_count(), batch_size=batch_size)
        for name, of_stages in seconds.items():
            group = file.create_group(name)
            group["stages"], group["slowest_stage_s"] = [*of_stages], [*of_stages.values()]


def slowest_stage(program: list[str], stages: int, batch_size: int) -> float:
    """Return the mean seconds of a batch on the slowest stage."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "times.npy")
        flags = ["--stages", str(stages), "--batch-size", str(batch_size), "--times", str(path)]
        flags += ["--in-flight", str(batch_size), "--requests", str(_BATCHES * batch_size)]
        command = [mpiexec(), "-n", str(stages), *program, *flags]
        subprocess.run(command, check=True, capture_output=True)
        return summarize(np.load(path), _WARM_UP * batch_size).busy_s


if __name__ == "__main__":
    main()
