"""TCP connections between the ranks and their monitors, independent of MPI."""

import fcntl
import hmac
import secrets
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from mpi4py import MPI

from vigmpi.comm.collectives import allgather_rows, allgather_strings
from vigmpi.host import process_name

_HELLO = struct.Struct("<32sI")  # token, rank
_WELCOME = b"+"
_TIMEOUT_S = 20.0
_HANDSHAKE_TIMEOUT_S = 2.0
_SIOCGIFADDR = 0x8915  # of linux/sockios.h


class Connections(NamedTuple):
    """Non-blocking connections of this rank, keyed by the rank at the other end.

    Attributes:
        to_monitors: to the monitors, except itself.
        from_ranks: on a monitor, from all other ranks.
        processes: process id and host of each rank, [ranks].
    """

    to_monitors: dict[int, socket.socket]
    from_ranks: dict[int, socket.socket]
    processes: list[str]


def connect_monitors(world: MPI.Intracomm, monitors: Sequence[int]) -> Connections | None:
    """Connect every rank with every monitor. Collective.

    The monitors' addresses are exchanged over MPI, with a random token that a peer must present.

    Returns:
        None on all ranks if any rank cannot connect.
    """
    host = world.Split_type(MPI.COMM_TYPE_SHARED)
    one_host = host.size == world.size  # loopback suffices, and is closed to other hosts
    host.Free()
    from_ranks: dict[int, socket.socket] = {}
    address = ""
    if world.rank in monitors and world.size > 1:
        listener = socket.create_server(("127.0.0.1" if one_host else "", 0), backlog=world.size)
        token = secrets.token_hex(16)
        arguments = (listener, token, world.size - 1, from_ranks)
        accepting = threading.Thread(target=_accept, args=arguments, daemon=True)
        accepting.start()
        hosts = ["127.0.0.1"] if one_host else _addresses()
        address = " ".join([token, str(listener.getsockname()[1]), *hosts])
    processes = allgather_strings(world, process_name())
    addresses = allgather_strings(world, address)
    peers = [monitor for monitor in monitors if monitor != world.rank]
    attempts = {monitor: _connect(addresses[monitor], world.rank) for monitor in peers}
    to_monitors = {monitor: connection for monitor, connection in attempts.items() if connection}
    if address:
        accepting.join()
    expected = (world.size - 1) * bool(address)
    complete = len(to_monitors) == len(peers) and len(from_ranks) == expected
    connections = [*to_monitors.values(), *from_ranks.values()]
    if not allgather_rows(world, np.array([complete])).all():
        for connection in connections:
            connection.close()
        return None
    for connection in connections:
        connection.setblocking(False)
    return Connections(to_monitors, from_ranks, processes)


def _accept(
    listener: socket.socket, token: str, expected: int, accepted: dict[int, socket.socket]
) -> None:
    """Accept connections until all ranks have connected or time is up; reject unknown peers."""
    deadline = time.monotonic() + _TIMEOUT_S
    with listener, suppress(TimeoutError):
        while len(accepted) < expected:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            connection, _ = listener.accept()
            rank = _handshake(connection, token)
            if rank is None:
                connection.close()
            else:
                accepted[rank] = connection


def _handshake(connection: socket.socket, token: str) -> int | None:
    """Return the peer's rank, or None if it does not present the token."""
    with suppress(OSError, struct.error):
        connection.settimeout(_HANDSHAKE_TIMEOUT_S)
        presented, rank = _HELLO.unpack(connection.recv(_HELLO.size))
        if hmac.compare_digest(presented, token.encode()):
            connection.sendall(_WELCOME)
            return rank
    return None


def _connect(address: str, rank: int) -> socket.socket | None:
    """Try a monitor's addresses in turn; an unrelated process may listen at some of them."""
    token, port, *hosts = address.split()
    for host in hosts:
        with suppress(OSError):
            connection = socket.create_connection((host, int(port)), timeout=_TIMEOUT_S / 2)
            connection.sendall(_HELLO.pack(token.encode(), rank))
            if connection.recv(1) == _WELCOME:
                return connection
            connection.close()
    return None


def _addresses() -> list[str]:
    """Return the IPv4 addresses of this host's network interfaces, except the loopback's."""
    addresses = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(query, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                addresses.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in addresses if not address.startswith("127.")]
