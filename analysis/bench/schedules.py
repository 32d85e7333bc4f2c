"""Benchmark of pipelines whose layers sleep, against the least time of their schedule.

    python -m analysis.bench.schedules [--rounds N] [--output FILE]

A block sleeps instead of computing, so that pipelines of 2, 4 and 8 stages take their true time on
any number of cores. What a step takes beyond the least time of its schedule is overhead of the
pipeline: messages, waits, the agreement on finite values and the optimizer.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np

from analysis.bench.launcher import mpiexec
from vigmpi.host import processor_name

STAGES = (2, 4, 8)
CHUNKS = 8
FORWARD_S, BACKWARD_S = 0.1, 0.2  # of one block, and there is one block on each stage


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.schedules",
        description="Compare sleeping pipelines with the least time of their schedule.",
    )
    parser.add_argument("--rounds", type=int, default=9, help="number of timed steps")
    parser.add_argument(
        "--output", type=Path, default=Path("schedules.h5"), help="HDF5 file to write"
    )
    parser.add_argument("--on-rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.on_rank:
        time_on_rank(arguments.rounds, arguments.output)
        return
    program = [sys.executable, "-m", "analysis.bench.schedules", *sys.argv[1:], "--on-rank"]
    arguments.output.unlink(missing_ok=True)
    for stages in STAGES:
        subprocess.run([mpiexec(), "-n", str(stages), *program], check=True)
    with h5py.File(arguments.output) as file:
        print(table(file))
    print(f"\n{arguments.rounds} steps; {processor_name()}, {os.cpu_count()} cores")
    print(f"results: {arguments.output}")


def time_on_rank(rounds: int, output: Path) -> None:
    """Time every schedule with as many stages as ranks; rank 0 adds the seconds to the file."""
    from mpi4py import MPI  # noqa: PLC0415 (the launching process must not start MPI)

    from analysis.bench.sleeping import sleeping_layers  # noqa: PLC0415
    from tests.mpi.small import Noise, make_training  # noqa: PLC0415
    from vigmpi.comm.progress_thread import progress_thread  # noqa: PLC0415
    from vigmpi.comm.topology import make_topology  # noqa: PLC0415
    from vigmpi.layout.layout import Layout  # noqa: PLC0415
    from vigmpi.position import Position  # noqa: PLC0415
    from vigmpi.record.ledger import least_seconds  # noqa: PLC0415
    from vigmpi.schedule import SCHEDULES  # noqa: PLC0415
    from vigmpi.schedule.program import dependencies  # noqa: PLC0415

    layout = Layout(MPI.COMM_WORLD.size, 1, CHUNKS)
    topology = make_topology(MPI.COMM_WORLD, layout)
    seconds = [(FORWARD_S, BACKWARD_S)] * layout.stages
    forward, backward = np.array(seconds).T[:, None]
    for schedule in SCHEDULES:
        layers = sleeping_layers(seconds, (3, *Noise.image_size))
        training = make_training(topology, layout, CHUNKS, schedule=schedule, layers=layers)
        measured: list[float] = []
        with progress_thread(topology.world):
            while len(measured) <= rounds:
                for own in training.run(Position()):
                    record = own.gather(topology.world, stop=False, checkpoint=False)
                    step_s = record.timing("step_s") - record.timing("data_s")
                    measured.append(float(step_s.max()))
        work = dependencies(training.pipeline.config.programs(CHUNKS))
        if topology.world.rank == 0:
            with h5py.File(output, "a") as file:
                file.attrs.update(processor=processor_name(), cores=os.cpu_count(), chunks=CHUNKS)
                steps = measured[1 : rounds + 1]  # the first one is a warm-up
                dataset = file.create_dataset(f"{schedule}/{layout.stages} stages", data=steps)
                least_s = float(least_seconds(work, forward, backward)[0])
                dataset.attrs.update(unit="s", least_s=least_s)


def table(file: h5py.File) -> str:
    """Return a Markdown table of the medians and their ratios to the least time."""
    lines = ["| schedule | stages | least time, s | median, s | ratio |", "|---|---|---|---|---|"]
    for schedule, group in file.items():
        for name, dataset in group.items():
            least, median = dataset.attrs["least_s"], float(np.median(dataset[:]))
            stages = name.removesuffix(" stages")
            lines.append(
                f"| {schedule} | {stages} | {least:.3f} | {median:.3f} | {median / least:.4f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
