"""What this host offers: cores and memory (Linux)."""

import ctypes
import gc
import os
import platform
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_M_MMAP_THRESHOLD = -3  # of malloc.h


def prepare_process() -> None:
    """Set what torch reads when it is imported, and how memory is given back.

    OpenMP's idle threads sleep instead of spinning on cores that the kernels' threads could use
    (measured: with spinning, a step on two cores takes a third longer). MKL sums in an order that
    does not depend on the number of threads: by default, a rank with two cores would differ from
    two ranks with one in the last bits.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    set_mmap_threshold(2**20)


@contextmanager
def importing() -> Iterator[None]:
    """Around imports of many modules, which make a million objects and no garbage.

    A sixth of a rank's start is the collector looking through them; frozen, they cost later
    collections nothing either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def set_mmap_threshold(size_bytes: int) -> None:
    """Let what is at least so large have memory of its own, given back when it is freed.

    glibc's heap by default grows to hold what is up to 32 MiB, and the holes between tensors that
    live long cost a third of the peak. Fresh memory has its price too: it slows the reference
    path by a third and the collapsed one hardly.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, size_bytes)


def process_name() -> str:
    """Where to find this process."""
    return f"pid {os.getpid()} on {platform.node()}"


def end_process(name: str) -> bool:
    """Kill a process by its `process_name`; False if it is not of this host."""
    pid, _, host = name.removeprefix("pid ").partition(" on ")
    if host != platform.node():
        return False
    with suppress(ProcessLookupError):
        os.kill(int(pid), signal.SIGKILL)
    return True


def threads_per_rank(cores: Sequence[frozenset[int]], rank: int) -> int:
    """How many cores a rank may compute on without taking another's.

    Args:
        cores: those that each rank of the host may use.
        rank: whose, an index into `cores`.
    """
    sharing = sum(1 for others in cores if others & cores[rank])
    return max(1, len(cores[rank]) // sharing)


def peak_rss_bytes() -> int:
    """This process's peak resident size so far.

    Not getrusage's: that one starts at the peak of the process that started this one.
    """
    return _kib_of("/proc/self/status", "VmHWM")


def resident_bytes() -> int:
    """This process's resident size now."""
    return _kib_of("/proc/self/status", "VmRSS")


def available_bytes() -> int:
    """Memory that processes of this host can still take, within their control group's limits."""
    return min([_kib_of("/proc/meminfo", "MemAvailable"), *_group_rooms()])


def _kib_of(path: str, key: str) -> int:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"{path} has no {key}")


def _group_rooms() -> list[int]:
    """What is left under the memory limit of each control group (v2) above this process."""
    root = Path("/sys/fs/cgroup")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    group = root / own.strip("/")
    rooms = []
    for folder in [group, *group.parents]:
        limit, used = folder / "memory.max", folder / "memory.current"
        if limit.is_file() and (bound := limit.read_text().strip()) != "max":
            rooms.append(int(bound) - int(used.read_text()) + _inactive_file_bytes(folder))
    return rooms


def _inactive_file_bytes(group: Path) -> int:
    """Cached file pages, which the kernel gives up before it refuses memory."""
    stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    return int(stat.get("inactive_file", 0))
