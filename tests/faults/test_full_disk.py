"""A record that can no longer be written ends the run with one line and stays readable."""

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

# Writes until the file size limit is reached; a normal exit would close the file and write again.
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


LIMITS = random.Random(0).sample(range(250_000, 1_000_000), 8)  # bytes


@pytest.mark.parametrize(
    "limit", [LIMITS[0], *(pytest.param(n, marks=pytest.mark.slow) for n in LIMITS[1:])]
)
def test_every_flushed_row_survives_a_full_file(tmp_path: Path, limit: int) -> None:
    path = tmp_path / "a.h5"
    command = [sys.executable, "-c", FILL, str(path), str(limit)]
    done = finish(start(command), timeout=60)
    assert done.stderr == ""
    flushed, _, line = done.stdout.partition(" ")
    assert line.startswith(f"cannot extend the record: {path} (File too large); the rows written ")
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


def assert_reported_once(command: list[str], record: Path, reason: str) -> None:
    done = finish(start(command), timeout=200)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "vigmpi: error" in line]
    assert len(lines) == 1, done.stderr
    assert f" error: cannot extend the record: {record} ({reason}); the rows written " in lines[0]
    assert lines[0].endswith(f"use --resume latest --record {record}.")
    assert "Traceback" not in done.stderr
    with h5py.File(record) as file:
        steps = file.attrs["steps_done"]
        assert steps > 0
        assert np.isfinite(file["steps/loss"][:steps]).all()
        assert set(range(steps)) <= set(file["trace/mini_batch"][:])


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_one_line(small_disk: Path) -> None:
    record = small_disk / "run.h5"
    command = vigmpi(*LONG, "--record", str(record), ranks=4)
    assert_reported_once(command, record, "No space left on device")


@pytest.mark.slow
def test_a_record_on_a_read_only_disk_is_refused_at_the_start(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    record = small_disk / "run.h5"
    done = finish(start(vigmpi(*RUN, "--record", str(record), ranks=4)), timeout=100)
    assert done.returncode == 2
    assert f"vigmpi: error: cannot write the record: {record} (" in done.stderr
    assert "Read-only file system" in done.stderr
    assert "that can be written.\n" in done.stderr
    assert done.stderr.count("vigmpi: error:") == 1
    assert "Traceback" not in done.stderr
