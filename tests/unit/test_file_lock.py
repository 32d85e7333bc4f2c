import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vigmpi.errors import InputError
from vigmpi.file_lock import FileLock

HOLD = """
import sys, time
from pathlib import Path
from vigmpi.file_lock import FileLock
lock = FileLock(Path(sys.argv[1]), "in use", "Wait.")
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=rf"^in use, by process {holder.pid} on \S+\. Wait\.$"):
        FileLock(path, "in use", "Wait.")
    holder.kill()
    holder.communicate()
    lock = FileLock(path, "in use", "Wait.")
    lock.release()
    lock.release()
    assert not path.exists()


def test_a_lock_whose_file_is_removed_meanwhile_is_taken_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flock = tmp_path / "lock", fcntl.flock

    def removing(file: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", removing)
    lock = FileLock(path, "in use", "Wait.")
    with pytest.raises(InputError, match=rf"^in use, by process {os.getpid()} on "):
        FileLock(path, "in use", "Wait.")
    lock.release()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_protects_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refused)
    locks = [FileLock(tmp_path / "lock", "in use", "Wait.") for _ in range(2)]
    assert not any(lock.supported for lock in locks)
    for lock in locks:
        lock.release()
    assert not list(tmp_path.iterdir())
