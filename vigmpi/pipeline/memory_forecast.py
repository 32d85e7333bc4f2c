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

# The next mini-batch's images are there early, and the last one's until they are.
_WAITING_BATCHES = 2
_FIRST_STEP_BYTES = 40 * 2**20  # what libraries and MPI take at first use (measured)


class Forecast(NamedTuple):
    """Bytes at the peak of a training step: of this rank, of all ranks of its host, and what
    the host can give them.
    """

    rank: int
    host: int
    available: int


def forecast_memory(topology: Topology, layout: Layout, model: ViG, batch_size: int) -> Forecast:
    """Work out the memory of a step before there is one. Collective over the host.

    GPipe keeps the tape of all micro-batches; a layer at work needs, beside it, about as much as
    it keeps of one micro-batch.

    Raises:
        InputError: the host has less, with the images that fit (on the ranks of that host).
    """
    order = np.arange(batch_size * layout.replicas)
    share = micro_batches(order, layout.replicas, layout.chunks)[topology.place.replica]
    # One rank of the host compiles the kernels on the way, the others find them in its cache.
    if topology.host.rank > 0:
        wait(topology.host.Ibarrier())
    tape = activation_memory(model)
    if topology.host.rank == 0:
        wait(topology.host.Ibarrier())
    loaded = _WAITING_BATCHES * model.config.image_bytes if topology.place.stage == 0 else 0
    growing = (tape.image + loaded) * sum(map(len, share)) + tape.part_image * max(map(len, share))
    adam = 2 * sum(p.nbytes for p in model.parameters())
    fixed = tape.fixed * len(share) + adam + _FIRST_STEP_BYTES
    resident = resident_bytes()

    rows = allgather_rows(topology.host, np.array([growing, fixed, resident]))
    host_growing, host_fixed, host_resident = rows.sum(axis=0)
    available = host_resident + available_bytes()
    forecast = Forecast(int(growing + fixed + resident), int(rows.sum()), int(available))
    if forecast.host > available:
        room = max(0.0, available - host_fixed - host_resident)
        fitting = int(batch_size * room / host_growing)
        raise InputError(
            f"--batch-size {batch_size} needs {forecast.host / 2**30:.1f} GiB on a host that has "
            f"{available / 2**30:.1f} GiB for it; {fitting} images fit; type: "
            + (
                f"--batch-size {fitting}"
                if fitting >= layout.chunks
                else "fewer --chunks or --blocks, or take more hosts"
            )
        )
    return forecast
