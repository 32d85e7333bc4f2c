import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from vigmpi.comm.collectives import (
    all_equal,
    allgather_bytes,
    allgather_strings,
    raise_collectively,
)
from vigmpi.comm.topology import make_topology
from vigmpi.errors import InputError
from vigmpi.layout.layout import Layout


class SpecialError(InputError):
    pass


def fail_on_some_ranks() -> None:
    world = MPI.COMM_WORLD
    with pytest.raises(InputError, match=r"^rank 1's file$"), raise_collectively(world):  # noqa: PT012
        if world.rank in {1, 3}:
            raise InputError(f"rank {world.rank}'s file")
    with raise_collectively(world):
        pass
    text = 5000 * "x"
    with pytest.raises(SpecialError, match=f"^{text}$"), raise_collectively(world):  # noqa: PT012
        if world.rank == 2:
            raise SpecialError(text)


def test_an_input_error_on_any_rank_is_raised_on_all_ranks(on_ranks: OnRanks) -> None:
    on_ranks(4, fail_on_some_ranks)


def gather_bytes_and_strings() -> None:
    world = MPI.COMM_WORLD
    for size_bytes in (0, 1, 1001, 3_000_000):
        contents = [bytes([rank]) * (rank * size_bytes) for rank in range(4)]  # rank 0's is empty
        assert allgather_bytes(world, contents[world.rank]) == contents
    texts = ["", 600 * "dög\n", "ends with a null\0", "not UTF-8: \udcff"]
    assert allgather_strings(world, texts[world.rank]) == texts


def test_bytes_and_strings_of_any_length_reach_all_ranks(on_ranks: OnRanks) -> None:
    on_ranks(4, gather_bytes_and_strings)


def compare_digests() -> None:
    world = MPI.COMM_WORLD
    assert all_equal(world, b"same")
    assert not all_equal(world, b"else" if world.rank == 2 else b"same")


def test_all_ranks_see_that_one_digest_differs(on_ranks: OnRanks) -> None:
    on_ranks(4, compare_digests)


def check_topology() -> None:
    world = MPI.COMM_WORLD
    for stages, replicas, parts in ((3, 2, 1), (1, 2, 3), (3, 1, 2)):
        topology = make_topology(world, Layout(stages, replicas, 1, parts))
        replica, stage, part = topology.place
        assert world.rank == topology.world.rank == (replica * stages + stage) * parts + part
        assert (topology.pipeline.rank, topology.pipeline.size) == (stage, stages)
        assert (topology.replicas.rank, topology.replicas.size) == (replica, replicas)
        assert (topology.parts.rank, topology.parts.size) == (part, parts)
        copies = topology.copies
        assert (copies.rank, copies.size) == (replica * parts + part, replicas * parts)
        assert topology.previous_stage == (stage - 1 if stage > 0 else MPI.PROC_NULL)
        assert topology.next_stage == (stage + 1 if stage < stages - 1 else MPI.PROC_NULL)


def test_ranks_are_numbered_part_by_part_within_each_stage_of_each_replica(
    on_ranks: OnRanks,
) -> None:
    on_ranks(6, check_topology)
