"""Threads of each rank, from the cores that it may use."""

import json
import os
import platform
from typing import NamedTuple

import torch

from vigmpi.cli.config import RunConfig
from vigmpi.cli.values import MAX_THREADS
from vigmpi.comm.collectives import allgather_strings
from vigmpi.comm.topology import Topology
from vigmpi.control_groups import CpuQuota, cpu_quota
from vigmpi.host import threads_per_rank
from vigmpi.launch import unbinding_option


class Threads(NamedTuple):
    """Threads of this rank.

    Attributes:
        number: number of threads.
        warning: which host's ranks share cores while others are idle; empty if none do. The same
            on all ranks.
    """

    number: int
    warning: str


def set_threads(config: RunConfig, topology: Topology) -> Threads:
    """Set and return the number of torch's threads. Collective."""
    own = [sorted(os.sched_getaffinity(0)), *cpu_quota()]
    ranks = [json.loads(each) for each in allgather_strings(topology.host, json.dumps(own))]
    cores = [frozenset(each) for each, *_ in ranks]
    quotas = [CpuQuota(*each) for _, *each in ranks]
    number = (
        config.threads or _omp_num_threads() or threads_per_rank(cores, quotas, topology.host.rank)
    )
    torch.set_num_threads(number)
    warnings = allgather_strings(topology.world, _warning(cores))
    return Threads(number, next(filter(None, warnings), ""))


def _omp_num_threads() -> int:
    """Return the number that the environment asks for, or 0."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return min(int(text), MAX_THREADS) if text.isdecimal() else 0


def _warning(cores: list[frozenset[int]]) -> str:
    used = frozenset[int]().union(*cores)
    available = used | os.sched_getaffinity(os.getppid())  # the launcher's
    if len(cores) <= len(used) or used == available:
        return ""
    return (
        f"warning: idle cores on {platform.node()}: {len(cores)} ranks share {len(used)} of "
        f"{len(available)} cores. Use {unbinding_option(os.environ)}."
    )
