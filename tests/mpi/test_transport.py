import time
from contextlib import nullcontext

import numpy as np
import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from vigmpi.comm.progress_thread import progress_thread
from vigmpi.comm.transport import Receiver, Route, Sender
from vigmpi.comm.waiting import wait

GUARD = -1.0


def pass_to_next_rank(nodes: int, chunks: int, slots: int) -> None:
    """Send from every rank to the next; step 1 has smaller micro-batches than step 0."""
    world = MPI.COMM_WORLD
    first, last = world.rank == 0, world.rank == world.size - 1
    route = Route(7, slots, [4] * chunks, (nodes, 3), np.dtype(np.float32))
    receiver = Receiver(world, world.rank - 1, route._replace(slots=0 if first else slots))
    sender = Sender(world, world.rank + 1, route._replace(slots=0 if last else slots))
    for step, images in enumerate([4, 3]):
        for buffer in receiver._buffers:
            buffer[:] = GUARD
        receiver.begin_step([images] * chunks)
        for i in range(chunks):
            if not first:
                received = receiver.receive(i)
                assert received.shape == (images, nodes, 3)
                assert received.ctypes.data % 64 == 0
                assert (received == 1000 * step + 100 * i + world.rank - 1).all()
                assert (receiver._buffers[i % slots][images:] == GUARD).all()
                receiver.release(i)
            if not last:
                values = np.full((images, nodes, 3), 1000 * step + 100 * i + world.rank, "f4")
                sender.send(i, values)
                values[:] = np.nan  # the caller may overwrite them
    sender.finish()


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("nodes", [16, 20_000])  # below and above the eager limit
def test_each_micro_batch_arrives_with_its_own_values(
    on_ranks: OnRanks, ranks: int, nodes: int, slots: int
) -> None:
    on_ranks(ranks, pass_to_next_rank, nodes=nodes, chunks=5, slots=slots)


def send_float64_as_float32() -> None:
    route = Route(0, 1, [2], (3,), np.dtype(np.float32))
    sender = Sender(MPI.COMM_WORLD, MPI.PROC_NULL, route)
    with pytest.raises(TypeError, match="float64"):
        sender.send(0, np.zeros((2, 3)))


def test_a_message_is_never_converted_to_another_type(on_ranks: OnRanks) -> None:
    on_ranks(2, send_float64_as_float32)


def send_and_compute(threaded: bool) -> None:
    """Send 9.6 MB from rank 0, which then makes no MPI call for a second."""
    world = MPI.COMM_WORLD
    values = np.zeros(1_200_000)
    with progress_thread(world) if threaded else nullcontext():
        world.Barrier()
        start = time.perf_counter()
        if world.rank == 0:
            request = world.Isend(values, 1)
            time.sleep(1)
        else:
            request = world.Irecv(values, 0)
        wait(request)
        elapsed = time.perf_counter() - start
    if world.rank == 1:
        assert (elapsed < 0.5) == threaded, f"arrived after {elapsed:.3f} s"


@pytest.mark.parametrize("threaded", [True, False])
def test_a_message_leaves_during_computation_only_with_a_progress_thread(
    on_ranks: OnRanks, threaded: bool
) -> None:
    """The ranks may not use shared memory, as if on two hosts (MPICH only)."""
    on_ranks(2, send_and_compute, threaded=threaded, environ={"MPIR_CVAR_NOLOCAL": "1"})


def wait_for_a_late_message() -> None:
    world = MPI.COMM_WORLD
    values = np.zeros(10)
    if world.rank == 0:
        time.sleep(1)
        world.Send(values, 1)
        return
    start = time.process_time()
    wait(world.Irecv(values, 0))
    assert time.process_time() - start < 0.5  # a spinning wait takes a full second


def test_a_waiting_rank_does_not_occupy_its_core(on_ranks: OnRanks) -> None:
    on_ranks(2, wait_for_a_late_message)
