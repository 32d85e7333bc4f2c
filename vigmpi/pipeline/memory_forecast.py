from typing import NamedTuple

import numpy as np

from vigmpi.comm.collectives import allgather_rows
from vigmpi.comm.topology import Topology
from vigmpi.comm.waiting import wait
from vigmpi.datasets.order import micro_batches
from vigmpi.errors import InputError
from vigmpi.host import available_bytes, resident_bytes
from vigmpi.layout.layout import Layout
from vigmpi.models.activation_memory import activation_memory
from vigmpi.models.study.vig import ViG

# The loader reads the next mini-batch's images while the current ones are still in memory.
_LOADED_BATCHES = 2
_FIRST_STEP_BYTES = 40 * 2**20  # allocated by libraries and MPI on first use (measured)


class Forecast(NamedTuple):
    """Bytes at the peak of a training step: for this rank, for all of its host, and available."""

    rank: int
    host: int
    available: int


def forecast_memory(topology: Topology, layout: Layout, model: ViG, batch_size: int) -> Forecast:
    """Forecast the memory of a training step before the first. Collective over the host.

    GPipe keeps the tapes of all micro-batches. A layer needs about as much working memory as it
    keeps of one micro-batch.

    Raises:
        InputError: if the host has less memory, with the batch size that fits (on its ranks).
    """
    order = np.arange(batch_size * layout.replicas)
    share = micro_batches(order, layout.replicas, layout.chunks)[topology.place.replica]
    sizes = [len(samples) for samples in share]
    # The first rank of the host compiles the kernels; the others then load them from its cache.
    if topology.host.rank > 0:
        wait(topology.host.Ibarrier())
    tape = activation_memory(model)
    if topology.host.rank == 0:
        wait(topology.host.Ibarrier())
    input_bytes = _LOADED_BATCHES * model.config.image_bytes if topology.place.stage == 0 else 0
    growing = (tape.image + input_bytes) * sum(sizes) + tape.layer_image * max(sizes)
    adam = 2 * sum(p.nbytes for p in model.parameters())
    fixed = tape.fixed * len(sizes) + adam + _FIRST_STEP_BYTES
    resident = resident_bytes()

    rows = allgather_rows(topology.host, np.array([growing, fixed, resident]))
    host_growing, host_fixed, host_resident = rows.sum(axis=0)
    available = host_resident + available_bytes()
    forecast = Forecast(int(growing + fixed + resident), int(rows.sum()), int(available))
    if forecast.host > available:
        room = max(0.0, available - host_fixed - host_resident)
        fitting = int(batch_size * room / host_growing)
        remedy = "fewer --chunks or --blocks, or more hosts"
        if fitting >= layout.chunks:
            remedy = f"--batch-size {fitting}"
        raise InputError(
            f"not enough memory for --batch-size {batch_size}: it needs "
            f"{forecast.host / 2**30:.1f} GiB on a host with {available / 2**30:.1f} GiB "
            f"available, where at most {fitting} images fit. Use {remedy}."
        )
    return forecast
