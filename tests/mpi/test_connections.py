import socket
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from vigmpi.comm.collectives import allgather_rows
from vigmpi.monitor import connections as module
from vigmpi.monitor.connections import connect_monitors


def every_rank_is_heard_by_the_hubs() -> None:
    world = MPI.COMM_WORLD
    monitors = sorted({0, world.size - 1})
    connections = connect_monitors(world, monitors)
    assert connections
    others = set(range(world.size)) - {world.rank}
    assert connections.to_monitors.keys() == set(monitors) - {world.rank}
    assert connections.from_ranks.keys() == (others if world.rank in monitors else set())
    assert len(set(connections.processes)) == world.size
    for connection in connections.to_monitors.values():
        connection.setblocking(True)
        connection.sendall(bytes([world.rank]))
    for rank, connection in connections.from_ranks.items():
        connection.setblocking(True)
        assert connection.recv(10) == bytes([rank])
    world.Barrier()


def strangers_are_shown_out(shown: str) -> None:
    """Rank 1 comes to rank 0 first as a stranger, then with the token."""
    world = MPI.COMM_WORLD
    call, answers = module._connect, []

    def call_twice(address: str, rank: int) -> socket.socket | None:
        token, port, host = address.split()
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            stranger.sendall(shown.encode()[:36] or token.encode()[:5])
            stranger.shutdown(socket.SHUT_WR)
            answers.append(stranger.recv(1))
        return call(address, rank)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_connect", call_twice)
        connections = connect_monitors(world, [0])
    assert connections
    assert answers == [b""] * world.rank
    assert connections.from_ranks.keys() == {1} - {world.rank}


def all_go_without_where_one_has_no_way() -> None:
    world = MPI.COMM_WORLD
    with pytest.MonkeyPatch.context() as patch:
        if world.rank == 2:
            patch.setattr(module, "_connect", lambda *_: None)
        patch.setattr(module, "_TIMEOUT_S", 2.0)
        found: Any = connect_monitors(world, [0, 2])
    assert found is None
    assert not allgather_rows(world, np.array([found is not None])).any()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_rank_is_heard_by_the_hubs(on_ranks: OnRanks, ranks: int) -> None:
    on_ranks(ranks, every_rank_is_heard_by_the_hubs)


@pytest.mark.parametrize("shown", ["", "0" * 36])
def test_who_does_not_show_the_token_is_shown_out(on_ranks: OnRanks, shown: str) -> None:
    on_ranks(2, strangers_are_shown_out, shown=shown)


def test_all_go_without_where_one_has_no_way(on_ranks: OnRanks) -> None:
    on_ranks(3, all_go_without_where_one_has_no_way)
