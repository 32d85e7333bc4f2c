"""A rank that stops on another host, on a private network of two emulated hosts."""

import random
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.drill import RANKS, drill, run
from tests.faults.test_drills import assert_ended
from tests.launching import mpiexec

HOSTS = {"vigmpi-a": "10.213.0.1", "vigmpi-b": "10.213.0.2"}

# Replacement for ssh: each host is a network namespace with its own host name.
LOGIN_SCRIPT = """#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift; done
case $1 in
    10.213.0.1) host=vigmpi-a ;;
    10.213.0.2) host=vigmpi-b ;;
esac
shift
exec ip netns exec $host unshare --uts sh -c "hostname $host && exec $*"
"""
WITH_HOST_NAME = ["unshare", "--uts", "sh", "-c", 'hostname $0 && exec "$@"']


def can_create_hosts() -> bool:
    """Return whether this user may create namespaces; root in a container may not."""
    if not (shutil.which("ip") and shutil.which("unshare")):
        return False
    command = ["unshare", "--net", "--mount", "--uts", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[list[str]]:
    """Yield MPICH's launch command for two ranks on each of two hosts joined by a cable."""
    first, second = HOSTS
    login = tmp_path / "login"
    login.write_text(LOGIN_SCRIPT)
    login.chmod(0o755)
    try:
        for host in HOSTS:
            ip("netns", "add", host)
        ip("link", "add", "cable", "netns", first, "type", "veth", "peer", "cable", "netns", second)
        for host, address in HOSTS.items():
            ip("-n", host, "address", "add", f"{address}/30", "dev", "cable")
            for device in ("lo", "cable"):
                ip("-n", host, "link", "set", device, "up")
        remote = ["-launcher", "ssh", "-launcher-exec", str(login), "-localhost", HOSTS[first]]
        hosts = ["-hosts", ",".join(HOSTS.values()), "-ppn", str(RANKS // 2)]
        local = ["ip", "netns", "exec", first, *WITH_HOST_NAME, first]
        yield [*local, *mpiexec(RANKS), *remote, *hosts]
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], check=False, capture_output=True)


@pytest.mark.slow
@pytest.mark.skipif(not can_create_hosts(), reason="network namespaces need root, ip and unshare")
@pytest.mark.parametrize("rank", [0, 2])
def test_a_rank_that_stops_is_reported_from_the_other_host(
    tmp_path: Path, launcher: list[str], rank: int
) -> None:
    planned = drill("mpiexec", "stop", rank, "backward", random.Random(rank))
    outcome = run(planned, tmp_path / "run", launcher)
    assert_ended(planned, outcome)
    assert f" on {list(HOSTS)[rank // 2]})" in outcome.messages[0], outcome.output
