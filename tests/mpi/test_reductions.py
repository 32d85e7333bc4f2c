import time

import numpy as np
import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from vigmpi.comm.reductions import GradientSum, OrderedGradientSum
from vigmpi.comm.topology import make_topology
from vigmpi.comm.waiting import wait
from vigmpi.layout.layout import Layout

SEED = int(np.random.SeedSequence().generate_state(1)[0])  # new inputs in each session

# Two hosts that take turns in rank order, and a sum that adds up each host's ranks first. MPICH's
# default for MPI_Iallreduce has so far ignored hosts; its MPI_Allreduce does not (5.0.2).
TWO_HOSTS = {
    "MPIR_CVAR_NUM_CLIQUES": "2",
    "MPIR_CVAR_IALLREDUCE_INTRA_ALGORITHM": "sched_smp",
}


class Recording(MPI.Intracomm):
    """Communicator that records the size of each all-gather's result when it starts."""

    gathered: list[int]

    def Iallgatherv(self, sendbuf, recvbuf):  # type: ignore[no-untyped-def]  # noqa: N802
        self.gathered.append(len(recvbuf[0]))
        return super().Iallgatherv(sendbuf, recvbuf)


def recording(comm: MPI.Intracomm) -> Recording:
    replicas = Recording(comm)
    replicas.gathered = []
    return replicas


def random_values(size: int, dtype: str, *seed: int) -> np.ndarray:
    """Return values of such different sizes that almost every order of addition rounds apart."""
    random = np.random.default_rng(seed)
    return (random.standard_normal(size) * 10.0 ** random.integers(-3, 4, size)).astype(dtype)


def in_rank_order(terms: list[np.ndarray]) -> np.ndarray:
    total = terms[0].copy()
    for term in terms[1:]:
        total = total + term
    return total


def sum_beside_delays(seed: int, dtype: str, sizes: list[int]) -> None:
    """Sum three steps' buckets; each rank starts them at other times, one rank some of them."""
    world = MPI.COMM_WORLD
    replicas = recording(world)
    buckets = [np.empty(size, dtype) for size in sizes]
    gradient_sum = OrderedGradientSum(replicas, buckets)
    for step in range(3):
        late = (step + 1) % world.size
        terms = [
            [random_values(size, dtype, seed, step, bucket, rank) for rank in range(world.size)]
            for bucket, size in enumerate(sizes)
        ]
        for bucket, by_rank in zip(buckets, terms, strict=True):
            bucket[:] = by_rank[world.rank]
        pause = np.random.default_rng([seed, step, world.rank])
        if world.rank == late:
            time.sleep(0.1)
        for number in reversed(range(2 if world.rank == late else 0, len(sizes))):
            gradient_sum.start(number)
            time.sleep(pause.choice([0, 0.02]))
        gradient_sum.finish()
        for bucket, by_rank in zip(buckets, terms, strict=True):
            np.testing.assert_array_equal(bucket, in_rank_order(by_rank), err_msg=f"seed {seed}")
        if world.size > 2:  # the check above sees the order
            assert (in_rank_order(terms[-1]) != in_rank_order(terms[-1][::-1])).any()
        assert replicas.gathered == sizes[::-1]
        replicas.gathered.clear()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_buckets_of_any_size_are_added_in_rank_order_and_gathered_in_the_same_order_on_all_ranks(
    on_ranks: OnRanks, ranks: int, dtype: str
) -> None:
    sizes = [ranks - 1, 5, 0, 1, 100_000, 20, 0, 3001]
    on_ranks(ranks, sum_beside_delays, timeout=30, seed=SEED, dtype=dtype, sizes=sizes)


def start_slowly() -> None:
    replicas = recording(MPI.COMM_WORLD)
    barrier = MPI.COMM_WORLD.Dup()  # no other collective may come between those of the sum
    gradient_sum = OrderedGradientSum(replicas, [np.ones(size) for size in (10, 20, 30)])
    for bucket in (2, 1, 0):
        gradient_sum.start(bucket)
        wait(barrier.Ibarrier())
    assert replicas.gathered[:1] == [30]
    gradient_sum.finish()
    barrier.Free()


def test_a_bucket_that_has_arrived_is_added_up_before_the_last_one_starts(
    on_ranks: OnRanks,
) -> None:
    on_ranks(3, start_slowly, timeout=30)


def sum_on_two_hosts(seed: int) -> None:
    """Sum the same values over 2 and 3 replicas of 1 and 2 stages."""
    world = MPI.COMM_WORLD
    sums: dict[tuple[str, int, int], np.ndarray] = {}
    for replicas in (2, 3):
        for stages in (1, 2):
            used = MPI.Intracomm(world.Split(int(world.rank >= stages * replicas), world.rank))
            if world.rank < stages * replicas:
                topology = make_topology(used, Layout(stages, replicas, chunks=1))
                terms = [random_values(10_000, "float32", seed, rank) for rank in range(replicas)]
                for kind in (GradientSum, OrderedGradientSum):
                    bucket = terms[topology.place.replica].copy()
                    kind(topology.replicas, [bucket]).finish()
                    sums[kind.__name__, replicas, stages] = bucket
                np.testing.assert_array_equal(
                    sums["OrderedGradientSum", replicas, stages], in_rank_order(terms)
                )
    if world.rank == 0:
        expected = sums["GradientSum", 2, 1]
        np.testing.assert_array_equal(sums["GradientSum", 2, 2], expected)
        assert (sums["GradientSum", 3, 1] != sums["GradientSum", 3, 2]).any()


def test_only_the_ordered_sum_of_three_replicas_on_two_hosts_is_the_same_for_all_stages(
    on_ranks: OnRanks,
) -> None:
    """With two replicas, there is one addition, so any sum is the same (MPICH only)."""
    on_ranks(6, sum_on_two_hosts, timeout=30, seed=SEED, environ=TWO_HOSTS)
