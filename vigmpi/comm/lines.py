"""TCP connections beside MPI: they tell of a rank that MPI waits for in vain."""

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

from vigmpi.comm.gather import gather_rows, gather_texts
from vigmpi.host import process_name

_HELLO = struct.Struct("<32sI")  # token, rank
_WELCOME = b"+"
_TIMEOUT_S = 20.0
_STRANGER_S = 2.0
_SIOCGIFADDR = 0x8915  # of linux/sockios.h


class Lines(NamedTuple):
    """This rank's connections, non-blocking, by the rank at the other end.

    Attributes:
        up: to the hubs.
        down: on a hub, from all other ranks.
        processes: process id and host of each rank, [ranks].
    """

    up: dict[int, socket.socket]
    down: dict[int, socket.socket]
    processes: list[str]


def open_lines(world: MPI.Intracomm, hubs: Sequence[int]) -> Lines | None:
    """Connect every rank with every hub. Collective.

    Where each rank listens travels over MPI, with a token that a caller must show.

    Args:
        hubs: ranks.

    Returns:
        None on all ranks if any could not connect.
    """
    host = world.Split_type(MPI.COMM_TYPE_SHARED)
    one_host = host.size == world.size  # then nobody outside needs to reach them
    host.Free()
    down: dict[int, socket.socket] = {}
    address = ""
    if world.rank in hubs and world.size > 1:
        listener = socket.create_server(("127.0.0.1" if one_host else "", 0), backlog=world.size)
        token = secrets.token_hex(16)
        accepting = threading.Thread(target=_accept, args=(listener, token, world.size - 1, down))
        accepting.daemon = True
        accepting.start()
        hosts = ["127.0.0.1"] if one_host else _addresses()
        address = " ".join([token, str(listener.getsockname()[1]), *hosts])
    processes = gather_texts(world, process_name())
    addresses = gather_texts(world, address)
    called = {hub: _call(addresses[hub], world.rank) for hub in hubs if hub != world.rank}
    up = {hub: line for hub, line in called.items() if line}
    if address:
        accepting.join()
    whole = len(up) == len(called) and len(down) == (world.size - 1) * bool(address)
    lines = [*up.values(), *down.values()]
    if not gather_rows(world, np.array([whole])).all():
        for line in lines:
            line.close()
        return None
    for line in lines:
        line.setblocking(False)
    return Lines(up, down, processes)


def _accept(
    listener: socket.socket, token: str, callers: int, accepted: dict[int, socket.socket]
) -> None:
    """Take calls until all have come or time is up; strangers are shown out."""
    deadline = time.monotonic() + _TIMEOUT_S
    with listener, suppress(TimeoutError):
        while len(accepted) < callers:
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            line, _ = listener.accept()
            rank = _meet(line, token)
            if rank is None:
                line.close()
            else:
                accepted[rank] = line


def _meet(line: socket.socket, token: str) -> int | None:
    """The caller's rank, if it shows the token."""
    with suppress(OSError, struct.error):
        line.settimeout(_STRANGER_S)
        shown, rank = _HELLO.unpack(line.recv(_HELLO.size))
        if hmac.compare_digest(shown, token.encode()):
            line.sendall(_WELCOME)
            return rank
    return None


def _call(address: str, rank: int) -> socket.socket | None:
    """Try a hub's addresses in turn; another process may listen at some of them."""
    token, port, *hosts = address.split()
    for host in hosts:
        with suppress(OSError):
            line = socket.create_connection((host, int(port)), timeout=_TIMEOUT_S / 2)
            line.sendall(_HELLO.pack(token.encode(), rank))
            if line.recv(1) == _WELCOME:
                return line
            line.close()
    return None


def _addresses() -> list[str]:
    """The IPv4 addresses of this host's interfaces, but for its loopback."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(asked, _SIOCGIFADDR, struct.pack("256s", name.encode()))
                found.append(socket.inet_ntoa(answer[20:24]))
    return [address for address in found if not address.startswith("127.")]
