import platform
import socket
import threading
import time
from ipaddress import IPv4Interface
from typing import Any

import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from vigmpi.comm.collectives import allgather_strings
from vigmpi.monitor import connections as module
from vigmpi.monitor.connections import connect_monitors


def monitors_receive_from_all_ranks() -> None:
    world = MPI.COMM_WORLD
    monitors = sorted({0, world.size - 1})
    connections = connect_monitors(world, monitors)
    assert not isinstance(connections, str)
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
    assert not isinstance(connections, str)
    assert replies == [b""] * world.rank
    assert connections.from_ranks.keys() == {1} - {world.rank}


def no_rank_is_connected() -> None:
    world = MPI.COMM_WORLD
    with pytest.MonkeyPatch.context() as patch:
        if world.rank == 2:
            patch.setattr(module, "_connect", lambda *_: None)
        patch.setattr(module, "_TIMEOUT_S", 2.0)
        connections: Any = connect_monitors(world, [0, 2])
    name = platform.node()
    assert connections.startswith(f"{name} cannot reach rank 0 on {name} at 127.0.0.1, port ")
    assert len(set(allgather_strings(world, connections))) == 1


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_the_monitors_receive_from_every_rank(on_ranks: OnRanks, ranks: int) -> None:
    on_ranks(ranks, monitors_receive_from_all_ranks)


@pytest.mark.parametrize("greeting", ["", "0" * 36])
def test_a_peer_without_the_token_is_rejected(on_ranks: OnRanks, greeting: str) -> None:
    on_ranks(2, unknown_peers_are_rejected, greeting=greeting)


def test_no_rank_is_connected_if_one_cannot_connect(on_ranks: OnRanks) -> None:
    on_ranks(3, no_rank_is_connected)


TOKEN = "0" * 32
SILENT = "198.51.100.1"  # for documentation (RFC 5737): nobody answers


def listen(answers: bool) -> tuple[int, list[bytes]]:
    """Start a listener on a new port; return the port and what it receives."""
    server, greetings = socket.create_server(("127.0.0.1", 0)), []

    def serve() -> None:
        with server:
            while True:
                connection, _ = server.accept()
                with connection:
                    greetings.append(connection.recv(36))
                    connection.sendall(b"+" if answers else b"?")
                if answers:
                    return

    threading.Thread(target=serve, daemon=True).start()
    return server.getsockname()[1], greetings


def test_an_address_that_answers_is_found_among_others_at_once() -> None:
    port, greetings = listen(answers=True)
    begun = time.monotonic()
    hosts = f"{SILENT} 127.0.0.2 127.0.0.1 198.51.100.2"  # nobody listens at the second
    connection = module._connect(f"{TOKEN} {port} {hosts}", 7)
    assert connection
    connection.close()
    assert time.monotonic() - begun < 2  # not the time limit of the silent address
    assert [greeting[32] for greeting in greetings] == [7]


def test_an_unrelated_listener_and_silence_are_given_up_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_TIMEOUT_S", 2.0)
    port, greetings = listen(answers=False)
    begun = time.monotonic()
    assert module._connect(f"{TOKEN} {port} 127.0.0.1 {SILENT}", 3) is None
    assert len(greetings) == 1
    assert time.monotonic() - begun < 3


def test_addresses_in_a_network_of_this_host_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[list[str]] = []
    begin = module._begin

    def record(hosts: list[str], port: int) -> dict[socket.socket, str]:
        begun.append(list(hosts))
        return begin(hosts, port)

    monkeypatch.setattr(module, "_begin", record)
    monkeypatch.setattr(module, "_interfaces", lambda: [IPv4Interface("127.0.0.1/8")])
    monkeypatch.setattr(module, "_TIMEOUT_S", 2.0)
    assert module._connect(f"{TOKEN} 9 {SILENT} 127.0.0.1", 3) is None  # nobody listens
    assert begun[:2] == [["127.0.0.1"], [SILENT]]
