"""Benchmark of the sums of gradients over two replicas: MPI's all-reduce and rank order.

    python -m analysis.bench.gradient_sums [--rounds N] [--output FILE]

Both kinds sum the buckets of the study's model in alternation on the same two ranks, which compute
nothing in the meantime. A second table gives the messages of more replicas, by formula.
"""

import argparse
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import h5py
import numpy as np

from analysis.bench.launcher import mpiexec
from vigmpi.host import processor_name

BUCKETS = (*[138_258] * 8, 14_346)  # gradients of the study's eight blocks and of its head
_STEP_BYTES = 4 * sum(BUCKETS)
_REPLICAS = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m analysis.bench.gradient_sums",
        description="Time the sums of gradients over two replicas.",
    )
    parser.add_argument("--rounds", type=int, default=500, help="number of timed rounds")
    parser.add_argument(
        "--output", type=Path, default=Path("gradient-sums.h5"), help="HDF5 file to write"
    )
    parser.add_argument("--on-rank", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.on_rank:
        time_on_rank(arguments.rounds, arguments.output)
        return
    program = [sys.executable, "-m", "analysis.bench.gradient_sums", *sys.argv[1:], "--on-rank"]
    subprocess.run([mpiexec(), "-n", str(_REPLICAS), *program], check=True)
    with h5py.File(arguments.output) as file:
        print(times_table({name: dataset[:] for name, dataset in file["seconds"].items()}))
    print(f"\n{arguments.rounds} rounds; {processor_name()}, {os.cpu_count()} cores")
    print(f"\n{messages_table()}\n\nresults: {arguments.output}")


def time_on_rank(rounds: int, output: Path) -> None:
    """Time both kinds on this rank and let rank 0 write the seconds of all ranks. Collective."""
    from mpi4py import MPI  # noqa: PLC0415 (the launching process must not start MPI)

    from analysis.bench.rounds import interleaved  # noqa: PLC0415
    from vigmpi.comm.buffers import aligned  # noqa: PLC0415
    from vigmpi.comm.collectives import allgather_rows  # noqa: PLC0415
    from vigmpi.comm.progress_thread import progress_thread  # noqa: PLC0415
    from vigmpi.comm.reductions import GRADIENT_SUMS, GradientSum  # noqa: PLC0415

    world = MPI.COMM_WORLD
    buckets = [aligned((size,), np.float32) for size in BUCKETS]
    for bucket in buckets:
        bucket[:] = 0  # other values would overflow after many sums in place

    def step(gradient_sum: GradientSum) -> None:
        for bucket in reversed(range(len(buckets))):
            gradient_sum.start(bucket)
        gradient_sum.finish()  # waits for the other rank, which keeps the ranks together

    sums = {name: kind(world, buckets) for name, kind in GRADIENT_SUMS.items()}
    with progress_thread(world):
        samples = interleaved(
            {name: (partial(step, kind), 1) for name, kind in sums.items()}, rounds
        )
    seconds = {name: allgather_rows(world, sample.seconds) for name, sample in samples.items()}
    if world.rank == 0:
        with h5py.File(output, "w") as file:
            file.attrs.update(processor=processor_name(), cores=os.cpu_count(), buckets=BUCKETS)
            file.attrs["mpi"] = MPI.Get_library_version().splitlines()[0].rstrip("\0")
            for name, rows in seconds.items():
                dataset = file.create_dataset(f"seconds/{name}", data=rows)
                dataset.attrs.update(unit="s", axes="rank, round")


def times_table(seconds: dict[str, np.ndarray]) -> str:
    """Return a Markdown table of the medians over the rounds of the slower rank's seconds."""
    medians = {name: float(np.median(rows.max(axis=0))) for name, rows in seconds.items()}
    lines = ["| sum over 2 replicas | median, ms | ratio |", "|---|---|---|"]
    lines += [
        f"| {name} | {1e3 * median:.3f} | {median / medians['allreduce']:.2f} |"
        for name, median in medians.items()
    ]
    return "\n".join(lines)


def messages_table() -> str:
    """Return a Markdown table of what a rank sends in a step, and of its messages per bucket.

    The ordered sum sends (R - 1) / R of a bucket twice: in R - 1 messages of the exchange, and in
    an all-gather, for which a ring is assumed (MPICH documents it for 512 KiB and more). The
    all-reduces are the ring, the reduce-scatter with recursive halving (MPICH documents it for
    more than 2 KiB) and recursive doubling (up to 2 KiB), as described by Thakur, Rabenseifner and
    Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 2005. What a
    library does beyond its documentation is not counted.
    """
    algorithms = ("ordered", "ring all-reduce", "reduce-scatter", "recursive doubling")
    lines = [f"| replicas | {' | '.join(algorithms)} |", "|---" * (1 + len(algorithms)) + "|"]
    for replicas in (2, 4, 8, 16):
        rounds = math.log2(replicas)
        twice = 2 * (replicas - 1) / replicas * _STEP_BYTES
        sent = (
            (twice, 2 * (replicas - 1)),
            (twice, 2 * (replicas - 1)),
            (twice, 2 * rounds),
            (rounds * _STEP_BYTES, rounds),
        )
        cells = [f"{bytes_ / 2**20:.2f} MiB, {messages:.0f}" for bytes_, messages in sent]
        lines.append(f"| {replicas} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "(bytes per rank and step, messages per rank and bucket)"])


if __name__ == "__main__":
    main()
