import math
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import h5py
import pytest

from tests.launching import finish, start, vigmpi
from vigmpi.control_groups import CpuQuota, cpu_quota, memory_headroom

MIB = 2**20
V1 = Path("/sys/fs/cgroup")


def write(root: Path, group: str, **files: object) -> None:
    folder = root / group
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def describe(root: Path, groups: str, mounts: str) -> None:
    write(root, "proc/self", cgroup=groups, mountinfo=mounts)


def test_the_limits_of_version_2_along_the_whole_path(tmp_path: Path) -> None:
    mounts = "20 1 0:5 / / rw - ext4 /dev/sda rw\n31 20 0:6 / /cg rw,nosuid - cgroup2 cgroup2 rw"
    describe(tmp_path, "0::/user/job/step", mounts)
    assert [*memory_headroom(tmp_path).values()] == []
    assert cpu_quota(tmp_path) == CpuQuota(math.inf, "")
    used = {"memory__current": 300 * MIB, "memory__stat": f"anon 5\ninactive_file {40 * MIB}"}
    write(tmp_path, "cg/user/job/step", memory__max="max", cpu__max="max 100000", **used)
    write(tmp_path, "cg/user/job", memory__max=500 * MIB, cpu__max="150000 100000", **used)
    write(tmp_path, "cg/user", memory__max=800 * MIB, cpu__max="800000 100000", **used)
    assert [*memory_headroom(tmp_path).values()] == [240 * MIB, 540 * MIB]
    assert cpu_quota(tmp_path).cores == 1.5
    before = cpu_quota(tmp_path)
    write(tmp_path, "cg/user/job/step", cpu__max="140000 100000")
    assert cpu_quota(tmp_path).group != before.group


def test_the_limits_of_version_1_in_a_container(tmp_path: Path) -> None:
    """The container's mounts show its own group only; version 2 is mounted, too, without limits."""
    groups = "9:name=systemd:/\n4:memory:/docker/7f\n2:cpu,cpuacct:/docker/7f\n0::/"
    mounts = (
        "32 31 0:29 /docker/7f /cg/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
        "35 31 0:32 /docker/7f /cg/memory ro - cgroup cgroup rw,memory\n"
        "41 31 0:38 / /cg/unified rw - cgroup2 cgroup2 rw"
    )
    describe(tmp_path, groups, mounts)
    memory = {"memory__limit_in_bytes": 700 * MIB, "memory__usage_in_bytes": 600 * MIB}
    stat = f"inactive_file 1\ntotal_inactive_file {50 * MIB}"
    write(tmp_path, "cg/memory", **memory, memory__stat=stat)
    cpu = {"cpu__cfs_quota_us": 200_000, "cpu__cfs_period_us": 100_000}
    write(tmp_path, "cg/cpu,cpuacct", **cpu)
    assert [*memory_headroom(tmp_path).values()] == [150 * MIB]
    assert cpu_quota(tmp_path).cores == 2
    write(tmp_path, "cg/cpu,cpuacct", cpu__cfs_quota_us=-1)
    assert cpu_quota(tmp_path).cores == math.inf
    describe(tmp_path, groups.replace("/docker/7f", "/../other"), mounts)  # of a namespace
    assert [*memory_headroom(tmp_path).values()] == [150 * MIB]


@pytest.mark.parametrize("content", ["", "x", "0::", "0::/a\n\n", "1:memory"])
def test_unreadable_descriptions_set_no_limit(tmp_path: Path, content: str) -> None:
    describe(tmp_path, content, "31 20 0:6 / /cg rw - cgroup2 cgroup2 rw")
    assert [*memory_headroom(tmp_path).values()] == []
    assert cpu_quota(tmp_path).cores == math.inf


@contextmanager
def group(controller: str, **files: int) -> Iterator[Path]:
    """Create a group of version 1 below this process's; yield the file that takes processes."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next(line.split(":", 2)[2] for line in lines if controller in line.split(":")[1])
    folder = V1 / controller / own.strip("/") / f"vigmpi-test-{uuid.uuid4().hex[:8]}"
    folder.mkdir()
    try:
        for name, value in files.items():
            (folder / name.replace("__", ".")).write_text(str(value))
        yield folder / "cgroup.procs"
    finally:
        folder.rmdir()


def _can_make_groups() -> bool:
    return all(os.access(V1 / name / "cgroup.procs", os.W_OK) for name in ("memory", "cpu"))


@pytest.mark.skipif(not _can_make_groups(), reason="needs control groups v1 that can be written")
@pytest.mark.slow
def test_a_run_in_a_real_group_keeps_to_its_quota_and_its_memory(tmp_path: Path) -> None:
    def run(record: str, *flags: str, procs: list[Path]) -> tuple[int, str]:
        enter = " && ".join(f"echo $$ > {path}" for path in procs)
        data = ["--dataset", "synthetic", "--steps", "1", "--test-steps", "1", "--epochs", "1"]
        command = vigmpi(*data, *flags, "--keep", "0", "--record", str(tmp_path / record))
        shell = ["sh", "-c", f'{enter} && unset OMP_NUM_THREADS && exec "$@"', "sh", *command]
        done = finish(start(shell), timeout=150)
        return done.returncode, done.stderr

    with ExitStack() as stack:
        one_core = {"cpu__cfs_period_us": 100_000, "cpu__cfs_quota_us": 100_000}
        procs = stack.enter_context(group("cpu", **one_core))
        status, error = run("a.h5", "--batch-size", "8", procs=[procs])
        assert status == 0, error
        with h5py.File(tmp_path / "a.h5") as file:
            assert list(file["ranks/threads"][:]) == [1]
    with ExitStack() as stack:
        procs = stack.enter_context(group("memory", memory__limit_in_bytes=700 * MIB))
        status, error = run("b.h5", "--batch-size", "2000", procs=[procs])
        assert status == 2, error
        last = error.splitlines()[-1]
        assert re.search(r"not enough memory for --batch-size 2000: .* with 0\.\d GiB", last)
        status, error = run("c.h5", "--batch-size", "2", "--blocks", "1", procs=[procs])
        assert status == 0, error
