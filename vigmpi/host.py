"""Cores and memory of this host, and this process on it (Linux)."""

import ctypes
import gc
import math
import os
import platform
import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from vigmpi.control_groups import CpuQuota, cpu_quota, memory_headroom

_CPU_INFO = Path("/proc/cpuinfo")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h

HOST = "host"


def prepare_process() -> None:
    """Set the environment that torch reads at import, and the allocator's threshold.

    OpenMP must not bind threads: it would bind all ranks of a host to the same cores, and with
    them the threads of the loader and the kernels. Binding is the launcher's task.

    Idle OpenMP threads sleep instead of spinning on cores that the kernels' threads could use;
    with spinning, a step on two cores takes a third longer (measured). MKL_CBWR asks MKL for
    sums that do not depend on the number of threads. Not every processor honours this, and the
    fast backend does not rely on it (`vigmpi.kernels.threads.one_torch_thread`); but it also
    selects MKL's code, and with it the bits of all runs.
    """
    os.environ["OMP_PROC_BIND"] = "false"
    for name in ("GOMP_CPU_AFFINITY", "KMP_AFFINITY"):
        os.environ.pop(name, None)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    _configure_heap(2**22)


@contextmanager
def garbage_collection_paused() -> Iterator[None]:
    """Import many modules without garbage collection, then freeze their objects.

    Imports create a million objects and no garbage. Scanning them takes a sixth of a rank's
    start-up time, and frozen objects are not scanned by later collections either.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _configure_heap(threshold_bytes: int) -> None:
    """Let glibc map allocations of at least this size separately and unmap them when freed.

    By default, glibc raises its threshold to the largest allocation freed so far, so that the peak
    memory depends on the order of events. Mapping has a cost, because every use of an allocation
    begins with page faults: with a threshold of 1 MiB, steps of ViG models took 1.2 to 1.3 times
    as long as with 4 MiB. With 32 MiB, fragmentation added up to 60 % to the memory of a run
    (measured with glibc 2.36).

    The end of the heap is not given back when it becomes free, or each step would begin with page
    faults again; `release_free_memory` does so.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, threshold_bytes)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def release_free_memory() -> None:
    """Return freed allocations of the heap to the system, so that they are not resident."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def matmul_library() -> str:
    """Return the library whose fp32 products are fastest on this processor: "blas" or "onednn".

    On the AMD processor that was measured, oneDNN is faster than MKL, torch's BLAS on x86, for most
    models. `analysis/README.md` has the measurements.
    """
    return "onednn" if _processor("vendor_id") == "AuthenticAMD" else "blas"


def has_bfloat16_instructions() -> bool:
    """Return whether the processor multiplies bfloat16 numbers in hardware."""
    flags = f"{_processor('flags')} {_processor('Features')}".split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def processor_name() -> str:
    """Return the name of this host's processor, or its architecture."""
    return _processor("model name") or platform.machine()


def _processor(key: str) -> str:
    """Return a value of /proc/cpuinfo, or an empty string."""
    with suppress(OSError):
        for line in _CPU_INFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == key:
                return value.strip()
    return ""


def parent_name() -> str:
    """Return the name of the program that started this process, or an empty string."""
    with suppress(OSError):
        return Path(f"/proc/{os.getppid()}/comm").read_text().strip()
    return ""


def has_terminal() -> bool:
    """Return whether this process has a controlling terminal."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return fields[4] != "0"


def num_cores() -> int:
    """Return the number of cores that this process may use, at least 1."""
    return max(1, int(min(len(os.sched_getaffinity(0)), cpu_quota().cores)))


def threads_per_rank(cores: Sequence[frozenset[int]], quotas: Sequence[CpuQuota], rank: int) -> int:
    """Return a rank's equal share of its cores, within its share of the quota.

    Args:
        cores: the cores that each rank of the host may use.
        quotas: the quota of each rank; ranks of the same group share one.
        rank: the rank, an index into `cores` and `quotas`.
    """
    num_sharing = sum(1 for core_set in cores if core_set & cores[rank])
    share = len(cores[rank]) // num_sharing
    return max(1, int(min(share, quotas[rank].cores / quotas.count(quotas[rank]))))


def peak_rss_bytes() -> int:
    """Return the peak resident size of this process so far.

    getrusage would not do: its value starts at the peak of the parent process.
    """
    return _proc_bytes("/proc/self/status", "VmHWM")


def resident_bytes() -> int:
    """Return the current resident size of this process."""
    return _proc_bytes("/proc/self/status", "VmRSS")


def available_bytes() -> int:
    """Return the memory available to this process, given the limits of its control groups."""
    return min(memory_limits().values())


def memory_limits() -> dict[str, int]:
    """Return the bytes available on the host (`HOST`) and under each limit of control groups.

    A control group is named by an identifier that its processes share.
    """
    return {HOST: _proc_bytes("/proc/meminfo", "MemAvailable"), **memory_headroom()}


def free_shared_memory_bytes() -> int:
    """Return the free space of /dev/shm; 0 if it does not exist."""
    try:
        status = os.statvfs("/dev/shm")  # noqa: S108
    except OSError:
        return 0
    return status.f_bavail * status.f_frsize


def process_headroom_bytes() -> float:
    """Return what this process may still allocate under its own limits; infinite without any."""
    headroom = [math.inf]
    for limit, used in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            headroom.append(max(0, soft - _proc_bytes("/proc/self/status", used)))
    return min(headroom)


def _proc_bytes(path: str, key: str) -> int:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise RuntimeError(f"{path} has no {key}")
