"""`python -m vigmpi train`: join the rooms for one run."""

import os

import numpy as np
import torch
from mpi4py import MPI

from vigmpi.comm.agreement import agreed
from vigmpi.comm.gather import gather_rows
from vigmpi.comm.progress_thread import progress_thread
from vigmpi.comm.topology import Topology, make_topology
from vigmpi.commands.about import about_ranks
from vigmpi.commands.report import Report
from vigmpi.commands.row import pack, unpack
from vigmpi.config import RunConfig
from vigmpi.datasets import DATASETS, Dataset, default_dataset
from vigmpi.host import threads_per_rank
from vigmpi.model import ViG, ViGConfig
from vigmpi.phase import Phase
from vigmpi.runtime.activity import Activity
from vigmpi.runtime.forecast import forecast_memory
from vigmpi.runtime.trace import Trace
from vigmpi.runtime.trainer import Plan, Trainer
from vigmpi.runtime.watchdog import watchdog


def train(config: RunConfig, world: MPI.Intracomm, activity: Activity) -> None:
    """Run on every rank of a world that fits the layout.

    Raises:
        InputError: on all ranks alike.
    """
    topology = make_topology(world, config.layout)
    with watchdog(topology, config.layout, activity, config.silence_s, config.standstill_s):
        _train(config, topology, activity)


def _train(config: RunConfig, topology: Topology, activity: Activity) -> None:
    layout = config.layout
    threads = _set_threads(config, topology)
    dataset = _open_dataset(config, topology)
    blocks = config.stage_blocks[topology.place.stage]
    model = ViG(
        ViGConfig(
            blocks=config.blocks,
            classes=dataset.classes,
            readout=config.readout,
            image_size=dataset.image_size,
        ),
        blocks,
        path=config.model_path,
        readout=topology.place.stage == layout.stages - 1,
        seed=config.seed,
    )
    with agreed(topology.world):
        forecast = forecast_memory(topology, layout, model, config.batch_size)
    ranks = about_ranks(topology, blocks, threads, forecast.rank)
    with agreed(topology.world):
        report = Report(config, dataset, ranks, forecast) if topology.world.rank == 0 else None

    plan = Plan(config.limits, config.batch_size, config.seed)
    trainer = Trainer(topology, layout, model, dataset, plan, config.lr, activity)
    trace = Trace(topology, config.chunks) if config.trace else None
    if report and trace:
        report.begin_trace(trace)
    with progress_thread(topology.world):
        for epoch in range(config.epochs):
            for phase in Phase:
                if report:
                    report.begin(phase, epoch)
                for result in trainer.run(phase, epoch):
                    with activity("timings"):
                        rows = gather_rows(topology.world, pack(result, model.config.part_names))
                        spans = trace.gather(result.spans) if trace else None
                    if report:
                        with activity("record"):
                            report.step(result, unpack(rows), spans)
                if report:
                    report.end()
    with activity("timings"):
        drift = trace.drift() if trace else None
        same = gather_rows(topology.world, np.array([trainer.replicas_agree()]))
    if report:
        with activity("record"):
            report.close(drift, replicas_bit_equal=bool(same.all()))
    if not same.all():
        raise RuntimeError("the replicas' weights or running statistics differ at the end")


def _set_threads(config: RunConfig, topology: Topology) -> int:
    cores = np.zeros(os.sysconf("SC_NPROCESSORS_CONF"), dtype=np.uint8)
    cores[list(os.sched_getaffinity(0))] = 1
    sets = [frozenset(np.flatnonzero(row).tolist()) for row in gather_rows(topology.host, cores)]
    from_openmp = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    threads = (
        config.threads
        or (int(from_openmp) if from_openmp.isdecimal() else 0)
        or threads_per_rank(sets, topology.host.rank)
    )
    torch.set_num_threads(threads)
    return threads


def _open_dataset(config: RunConfig, topology: Topology) -> Dataset:
    """Choose as rank 0 sees its data folder, prepare on each host, load what each rank needs."""
    names = list(DATASETS)
    chosen = np.array([names.index(config.dataset or default_dataset(config.data_dir))])
    topology.world.Bcast(chosen)
    dataset = DATASETS[names[int(chosen[0])]](config.data_dir, config.seed)
    world_first, host_first = topology.world.rank == 0, topology.host.rank == 0
    for turn in (world_first, host_first and not world_first):
        # Rank 0 goes first: the hosts may share the folder, and the others then find it ready.
        with agreed(topology.world):
            if turn:
                dataset.prepare(download=config.download)
    with agreed(topology.world):
        dataset.load(
            images=topology.previous == MPI.PROC_NULL, labels=topology.following == MPI.PROC_NULL
        )
    return dataset
