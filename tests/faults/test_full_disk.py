"""A record that takes no more ends the run with one line, and keeps what it had."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.faults.drill import RUN
from tests.launching import finish, start, vigmpi

RUN_KIB = 700
LONG = [*RUN, "--trace", "--steps", "400", "--keep", "0"]

# A file may be so many bytes long; the end of the process would close it, and write.
FILL = """
import os, resource, sys
from pathlib import Path
from tests.unit.record.test_recorder import add, make
from vigmpi.errors import RankError

path, limit = sys.argv[1:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
recorder, flushed = make(Path(path)), 0
try:
    for number in range(10_000):
        add(recorder, number)
        if number % 37 == 36:
            recorder.flush()
            flushed = number + 1
except RankError as error:
    print(flushed, error, flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("limit", random.Random(0).sample(range(250_000, 1_000_000), 8))
def test_every_flushed_row_is_there_once_the_file_takes_no_more(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "a.h5"
    command = [sys.executable, "-c", FILL, str(path), str(limit)]
    done = finish(start(command), timeout=60)
    assert done.stderr == ""
    flushed, _, line = done.stdout.partition(" ")
    assert line.startswith(f"the record {path} takes no more (File too large)")
    with h5py.File(path) as file:
        steps = int(file.attrs["steps_done"])
        assert steps == int(flushed)
        for name in ("mini_batch", "steps/loss", "timings/step_s", "layers/forward_s"):
            rows = file[name][:steps].reshape(steps, -1)
            expected = np.arange(steps) if name == "mini_batch" else np.arange(steps) % 200
            assert (rows == expected[:, None]).all()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={RUN_KIB}k", "tmpfs", str(folder)]
    subprocess.run(mount, check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def assert_told_once(command: list[str], record: Path, reason: str) -> None:
    done = finish(start(command), timeout=200)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "vigmpi: error" in line]
    assert len(lines) == 1, done.stderr
    assert f"the record {record} takes no more ({reason})" in lines[0]
    assert "type: --resume latest" in lines[0]
    assert "Traceback" not in done.stderr
    with h5py.File(record) as file:
        steps = file.attrs["steps_done"]
        assert steps > 0
        assert np.isfinite(file["steps/loss"][:steps]).all()
        assert set(range(steps)) <= set(file["trace/mini_batch"][:])


def test_a_full_disk_ends_the_run_with_one_line(small_disk: Path) -> None:
    record = small_disk / "run.h5"
    command = vigmpi(*LONG, "--record", str(record), ranks=4)
    assert_told_once(command, record, "No space left on device")


def test_an_output_on_a_read_only_disk_is_told_at_the_start(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    command = vigmpi(*RUN, "--record", str(small_disk / "run.h5"), ranks=4)
    done = finish(start(command), timeout=100)
    assert done.returncode == 2
    assert "can't be written (" in done.stderr
    assert "Read-only file system" in done.stderr
    assert done.stderr.count("vigmpi: error:") == 1
    assert "Traceback" not in done.stderr
