"""Locks by which two runs notice that they would write the same files."""

import fcntl
import os
import platform
import time
from pathlib import Path
from typing import IO

from vigmpi.errors import InputError

_LEASE_S = 120.0  # NFS version 4 grants leases of 90 s
_POLL_S = 0.5


class FileLock:
    """Lock that one process holds until it releases it or ends.

    The lock is a separate file, which is removed at the end, so that readers of the protected
    files are not kept out.

    Attributes:
        supported: false if the file system has no locks, so that nothing is protected.
    """

    def __init__(self, path: Path, problem: str, remedy: str, *, patient: bool = False) -> None:
        """Take the lock.

        Args:
            path: the file to lock, which is created.
            problem, remedy: the error if another process holds the lock.
            patient: true to wait for the lock of a host that may be lost, which the server of a
                network file system keeps until the host's lease ends.

        Raises:
            InputError: if another process holds the lock; the message names it.
            OSError: if the file cannot be created.
        """
        limit = time.monotonic() + (_LEASE_S if patient else 0.0)
        self._path, self._file = path, _locked(path, problem, remedy, limit)
        self.supported = self._file is not None

    def release(self) -> None:
        if self._file:
            self._path.unlink(missing_ok=True)  # before the lock is released by the close
            self._file.close()
            self._file = None


def _locked(path: Path, problem: str, remedy: str, limit: float) -> IO[str] | None:
    """Return a locked file, or None if the file system has no locks.

    Args:
        limit: value of the monotonic clock up to which a lock that is held is waited for.
    """
    while True:
        file = path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(200) or "another process"
            file.close()
            if time.monotonic() < limit:
                time.sleep(_POLL_S)
                continue
            raise InputError(f"{problem}, by {holder}. {remedy}") from None
        except OSError:
            file.close()
            path.unlink(missing_ok=True)
            return None
        if _is_at(path, file):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
            return file
        file.close()  # its holder removed it in between


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False
