"""A real two-node Slurm cluster on this machine: munged, slurmctld and two slurmd, run by root.

It uses neither cgroups nor accounting, so that it works in a container. Both nodes are this host,
but each has its own spool and temporary folders.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

_TOOLS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_CONF = """\
ClusterName=vigmpi
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={base}/munge.sock,cred_expire={requeue_s}
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool.%n
TmpFS={base}/tmp.%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
MpiDefault=pmi2
ReturnToService=2
KillWait=5
MailProg=/bin/true
FirstJobId={first_job}
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port1} CPUs=4 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port2} CPUs=4 RealMemory=8000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
"""


def unavailable_reason() -> str | None:
    """Return why no cluster can be started here, or None if one can."""
    missing = [tool for tool in _TOOLS if not shutil.which(tool, path=_PATH)]
    if missing:
        return f"not installed: {', '.join(missing)}. Use apt-get install slurm-wlm munge."
    return None if os.geteuid() == 0 else "the test cluster needs root: run the tests as root."


@contextlib.contextmanager
def cluster(base: Path) -> Iterator[dict[str, str]]:
    """Start the cluster, yield the environment that its commands need, and shut it down."""
    ports = _free_ports(3)
    # MPICH names its shared memory after the job, so the ID must be new.
    first_job = int(time.time()) % 50_000_000 + 1000
    conf = base / "slurm.conf"
    conf.write_text(
        _CONF.format(
            base=base,
            host=socket.gethostname().partition(".")[0],
            port=ports[0],
            port1=ports[1],
            port2=ports[2],
            first_job=first_job,
            requeue_s=10,  # how long a requeued job stays pending
        )
    )
    for name in ("state", "spool.n1", "spool.n2", "tmp.n1", "tmp.n2"):
        (base / name).mkdir()
    environment = {"SLURM_CONF": str(conf), "PATH": _PATH}
    key = base / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(1024))
    munge = [f"--{flag}={base}/munge.{suffix}" for flag, suffix in _MUNGE.items()]
    try:
        _run(["munged", "--force", *munge], environment)
        _run(["slurmctld", "-f", str(conf)], environment)
        for node in ("n1", "n2"):
            _run(["slurmd", "-f", str(conf), "-N", node], environment)
        _wait_for_nodes(environment)
        yield environment
    finally:
        for pid_file in ("slurmd.n1.pid", "slurmd.n2.pid", "slurmctld.pid", "munge.pid"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((base / pid_file).read_text()), signal.SIGTERM)


_MUNGE = {
    "key-file": "key",
    "socket": "sock",
    "pid-file": "pid",
    "log-file": "log",
    "seed-file": "seed",
}


def _run(command: list[str], environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def _wait_for_nodes(environment: Mapping[str, str]) -> None:
    deadline = time.monotonic() + 30
    while _run(["sinfo", "-h", "-N", "-o", "%T"], environment).split() != ["idle", "idle"]:
        assert time.monotonic() < deadline, _run(["sinfo", "-N", "-l"], environment)
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()
