"""Limits that control groups, of version 1 or 2, set to this process (man 7 cgroups)."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class _Files(NamedTuple):
    """Names of a group's files."""

    memory_limit: str
    memory_used: str
    reclaimable: str  # key in memory.stat of cached file pages


_FILES = {
    "cgroup": _Files("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "cgroup2": _Files("memory.max", "memory.current", "inactive_file"),
}


class CpuQuota(NamedTuple):
    """Time that the processes of a group may use together.

    Attributes:
        cores: the time, in cores; infinite for no limit.
        group: identifier of the group.
    """

    cores: float
    group: str


def memory_headroom(root: Path = Path("/")) -> dict[str, int]:
    """Return the bytes left under each limit, by identifiers of the groups.

    Cached file pages do not count, because they can be reclaimed.

    Args:
        root: folder that holds `proc` and the mount points.
    """
    headroom = {}
    for kind, group in _groups("memory", root):
        files = _FILES[kind]
        with suppress(OSError, ValueError):  # "max", or no file in the root group
            limit = int((group / files.memory_limit).read_text())
            used = int((group / files.memory_used).read_text())
            lines = (group / "memory.stat").read_text().splitlines()
            stat = dict(line.split() for line in lines)
            headroom[_identifier(group)] = limit - used + int(stat.get(files.reclaimable, 0))
    return headroom


def cpu_quota(root: Path = Path("/")) -> CpuQuota:
    """Return the lowest quota.

    Args:
        root: folder that holds `proc` and the mount points.
    """
    quotas = [CpuQuota(float("inf"), "")]
    for kind, group in _groups("cpu", root):
        with suppress(OSError, ValueError):
            if kind == "cgroup2":
                quota, period = map(int, (group / "cpu.max").read_text().split())
            else:
                names = "cpu.cfs_quota_us", "cpu.cfs_period_us"
                quota, period = (int((group / name).read_text()) for name in names)
            if quota > 0:
                quotas.append(CpuQuota(quota / period, _identifier(group)))
    return min(quotas)


def _identifier(group: Path) -> str:
    status = group.stat()  # containers see different groups under the same path
    return f"{status.st_dev}:{status.st_ino}"


def _groups(controller: str, root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the version and the folder of each group of this process, innermost first."""
    with suppress(OSError, ValueError):
        paths = _paths((root / "proc/self/cgroup").read_text())
        for line in (root / "proc/self/mountinfo").read_text().splitlines():
            mount, _, source = line.partition(" - ")
            _, _, _, mounted, point, *_ = mount.split()
            kind, _, options = source.split(maxsplit=2)
            if kind == "cgroup2":
                path = paths.get("")
            elif kind == "cgroup" and controller in options.split(","):
                path = paths.get(controller)
            else:
                continue
            top = root / point.lstrip("/")
            group = top / _relative(path or "/", mounted)
            for folder in (group, *group.parents):
                yield kind, folder
                if folder == top:
                    break


def _paths(text: str) -> dict[str, str]:
    """Return the path of this process's group by controller; "" stands for version 2."""
    paths = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        paths.update(dict.fromkeys(controllers.split(","), path))
    return paths


def _relative(path: str, mounted: str) -> str:
    """Return a group's path below a mount point, which may show only part of the tree."""
    mounted = mounted.rstrip("/")
    if path == mounted or path.startswith(f"{mounted}/"):
        path = path[len(mounted) :]
    elif mounted:
        path = ""
    return "" if ".." in path else path.strip("/")
