"""TCP connections between the ranks and their monitors, independent of MPI."""

import errno
import fcntl
import hmac
import secrets
import selectors
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from ipaddress import IPv4Interface, ip_address
from typing import NamedTuple, cast

from mpi4py import MPI

from vigmpi.comm.collectives import allgather_strings
from vigmpi.process_identity import ProcessIdentity

_HELLO = struct.Struct("<32sI")  # token, rank
_WELCOME = b"+"
_TIMEOUT_S = 20.0
_HEAD_START_S = 0.3  # of the addresses in a common network
_SHOWN = 3  # problems
_HANDSHAKE_TIMEOUT_S, _WELCOME_TIMEOUT_S = 2.0, 4.0
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B  # of linux/sockios.h


class Connections(NamedTuple):
    """Non-blocking connections of this rank, keyed by the rank at the other end.

    Attributes:
        to_monitors: to the monitors, except itself.
        from_ranks: on a monitor, from all other ranks.
        processes: the process of each rank, [ranks].
    """

    to_monitors: dict[int, socket.socket]
    from_ranks: dict[int, socket.socket]
    processes: list[ProcessIdentity]


def connect_monitors(world: MPI.Intracomm, monitors: Sequence[int]) -> Connections | str:
    """Connect every rank with every monitor. Collective.

    The monitors' addresses are exchanged over MPI, with a random token that a peer must present.

    Returns:
        On all ranks, who could not reach whom, if any rank cannot connect.
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
    own = ProcessIdentity.own().encode()
    processes = [ProcessIdentity.decode(each) for each in allgather_strings(world, own)]
    addresses = allgather_strings(world, address)
    peers = [monitor for monitor in monitors if monitor != world.rank]
    attempts = {monitor: _connect(addresses[monitor], world.rank) for monitor in peers}
    to_monitors = {monitor: connection for monitor, connection in attempts.items() if connection}
    if address:
        accepting.join()
    problem = ""
    for monitor in peers:
        if not attempts[monitor]:
            _, port, *hosts = addresses[monitor].split()
            problem = (
                f"{processes[world.rank].host} cannot reach rank {monitor} on "
                f"{processes[monitor].host} at {' or '.join(hosts) or 'no address'}, port {port}"
            )
    connections = [*to_monitors.values(), *from_ranks.values()]
    if problems := sorted({each for each in allgather_strings(world, problem) if each}):
        for connection in connections:
            connection.close()
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        return "; ".join(problems[:_SHOWN]) + more
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
    """Connect with a monitor at one of its addresses; an unrelated process may listen at others."""
    token, port, *hosts = address.split()
    deadline = time.monotonic() + _TIMEOUT_S / 2
    while hosts and (first := _first_connected(hosts, int(port), deadline)):
        host, connection = first
        with suppress(OSError):
            connection.settimeout(_WELCOME_TIMEOUT_S)
            connection.sendall(_HELLO.pack(token.encode(), rank))
            if connection.recv(1) == _WELCOME:
                return connection
        connection.close()
        hosts.remove(host)
    return None


def _first_connected(
    hosts: Sequence[str], port: int, deadline: float
) -> tuple[str, socket.socket] | None:
    """Return the first of many connections, which begin together, except for a head start.

    Addresses in a network of this host have it. All other connections are closed.
    """
    networks = [interface.network for interface in _interfaces()]
    near = [host for host in hosts if any(ip_address(host) in each for each in networks)]
    waiting = [host for host in hosts if host not in near]
    pending = _begin(near, port)
    begun = time.monotonic()
    with selectors.DefaultSelector() as selector:
        for connection in pending:
            selector.register(connection, selectors.EVENT_WRITE)
        while time.monotonic() < deadline and (pending or waiting):
            if waiting and (not pending or time.monotonic() > begun + _HEAD_START_S):
                new, waiting = _begin(waiting, port), []
                pending |= new
                for connection in new:
                    selector.register(connection, selectors.EVENT_WRITE)
            for key, _ in selector.select(_HEAD_START_S):
                connection = cast("socket.socket", key.fileobj)
                selector.unregister(connection)
                host = pending.pop(connection)
                if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    for other in pending:
                        other.close()
                    return host, connection
                connection.close()
    for connection in pending:
        connection.close()
    return None


def _begin(hosts: Sequence[str], port: int) -> dict[socket.socket, str]:
    """Begin to connect with all hosts."""
    pending = {}
    for host in hosts:
        connection = socket.socket()
        connection.setblocking(False)
        if connection.connect_ex((host, port)) in (0, errno.EINPROGRESS):
            pending[connection] = host
        else:
            connection.close()
    return pending


def _addresses() -> list[str]:
    """Return the IPv4 addresses of this host's network interfaces, except the loopback's."""
    return [str(each.ip) for each in _interfaces() if not each.is_loopback]


def _interfaces() -> list[IPv4Interface]:
    """Return the IPv4 addresses of this host's network interfaces with their networks."""
    interfaces = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as query:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                request = struct.pack("256s", name.encode())
                address, mask = (
                    socket.inet_ntoa(fcntl.ioctl(query, number, request)[20:24])
                    for number in (_SIOCGIFADDR, _SIOCGIFNETMASK)
                )
                interfaces.append(IPv4Interface(f"{address}/{mask}"))
    return interfaces
