import socket
from typing import Any

import numpy as np
import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from vigmpi.comm.collectives import allgather_rows
from vigmpi.monitor import connections as module
from vigmpi.monitor.connections import connect_monitors


def monitors_receive_from_all_ranks() -> None:
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


def unknown_peers_are_rejected(greeting: str) -> None:
    """Let rank 1 connect to rank 0 first as an unknown peer, then with the token."""
    world = MPI.COMM_WORLD
    connect, replies = module._connect, []

    def connect_twice(address: str, rank: int) -> socket.socket | None:
        token, port, host = address.split()
        with socket.create_connection((host, int(port)), timeout=10) as unknown:
            unknown.sendall(greeting.encode()[:36] or token.encode()[:5])
            unknown.shutdown(socket.SHUT_WR)
            replies.append(unknown.recv(1))
        return connect(address, rank)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_connect", connect_twice)
        connections = connect_monitors(world, [0])
    assert connections
    assert replies == [b""] * world.rank
    assert connections.from_ranks.keys() == {1} - {world.rank}


def no_rank_is_connected() -> None:
    world = MPI.COMM_WORLD
    with pytest.MonkeyPatch.context() as patch:
        if world.rank == 2:
            patch.setattr(module, "_connect", lambda *_: None)
        patch.setattr(module, "_TIMEOUT_S", 2.0)
        connections: Any = connect_monitors(world, [0, 2])
    assert connections is None
    assert not allgather_rows(world, np.array([connections is not None])).any()


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_monitors_receive_from_every_rank(on_ranks: OnRanks, ranks: int) -> None:
    on_ranks(ranks, monitors_receive_from_all_ranks)


@pytest.mark.parametrize("greeting", ["", "0" * 36])
def test_a_peer_without_the_token_is_rejected(on_ranks: OnRanks, greeting: str) -> None:
    on_ranks(2, unknown_peers_are_rejected, greeting=greeting)


def test_no_rank_is_connected_if_one_cannot_connect(on_ranks: OnRanks) -> None:
    on_ranks(3, no_rank_is_connected)
