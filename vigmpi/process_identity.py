import json
import os
import platform
import signal
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_BOOT = Path("/proc/sys/kernel/random/boot_id")


class ProcessIdentity(NamedTuple):
    """Process, recognized even among hosts of the same name and after its number was reused.

    Attributes:
        pid: its number in its namespace.
        host: name of its host, for people.
        boot: identifier of the boot of its kernel; empty if it is unknown.
        namespace: its namespace of process numbers.
        started: its start, in clock ticks since the boot.
    """

    pid: int
    host: str
    boot: str
    namespace: str
    started: int

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host}"

    @classmethod
    def own(cls) -> "ProcessIdentity":
        """Return the identity of this process."""
        return identity_of(os.getpid())

    @classmethod
    def decode(cls, text: str) -> "ProcessIdentity":
        """Return the identity that `encode` returned as text."""
        return cls(*json.loads(text))

    def encode(self) -> str:
        return json.dumps(self)

    def end(self) -> bool:
        """Kill the process; return False if it is not one of this namespace."""
        here = ProcessIdentity.own()
        if not self.boot or (self.boot, self.namespace) != (here.boot, here.namespace):
            return False
        if _started(self.pid) == self.started:  # otherwise it has ended
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        return True


def identity_of(pid: int) -> ProcessIdentity:
    """Return the identity of a process of this namespace."""
    boot = namespace = ""
    with suppress(OSError):
        boot = _BOOT.read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    return ProcessIdentity(pid, platform.node(), boot, namespace, _started(pid))


def _started(pid: int) -> int:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19])
    return 0
