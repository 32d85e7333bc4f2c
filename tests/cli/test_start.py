"""Start-up: files that not every rank sees, ranks that are missing, signals, libraries."""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import pytest
from mpi4py import MPI

from tests.launching import ROOT, finish, mpiexec, start, vigmpi, wait_until
from vigmpi.checkpoint.search import folder_of

SMALL = ("--dataset", "synthetic", "--blocks", "1", "--batch-size", "4", "--progress", "off")
LENGTH = ("--steps", "2", "--test-steps", "1", "--epochs", "1")


def elsewhere(*arguments: str) -> list[str]:
    """Return the command line of two ranks, the second of which is in another folder."""
    second = ["sh", "-c", 'cd /; exec "$@"', "sh", *vigmpi(*arguments)]
    return [*vigmpi(*arguments, ranks=1), ":", "-n", "1", *second]


def test_only_rank_0_needs_the_files_that_flags_name(tmp_path: Path) -> None:
    options = {"replicas": 2, "blocks": 1, "batch-size": 4, "steps": 2, "test-steps": 1}
    lines = [f"{name} = {value}" for name, value in options.items()]
    text = "\n".join([*lines, 'dataset = "synthetic"', "epochs = 1"])
    (tmp_path / "run.toml").write_text(text)
    command = elsewhere("--config", "run.toml", "--record", "run.h5")
    done = finish(start(command, cwd=tmp_path), timeout=150)
    assert done.returncode == 0, done.stderr
    resumed = elsewhere("--resume", "run.h5.checkpoints", "--epochs", "2")
    done = finish(start(resumed, cwd=tmp_path), timeout=150)
    assert done.returncode == 0, done.stderr
    with h5py.File(tmp_path / "run.h5") as file:
        assert file["ranks/pid"].shape == (2,)
        assert file.attrs["steps_done"] == 6


@pytest.mark.parametrize("arguments", [("--config", "none.toml"), ("--resume", "none")])
def test_a_file_that_rank_0_cannot_read_is_an_error_of_one_line(
    tmp_path: Path, arguments: tuple[str, str]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    command = vigmpi("--replicas", "2", *arguments, ranks=2)
    done = finish(start(command, cwd=tmp_path), timeout=60)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("vigmpi: error: ")
    assert arguments[1] in line


def missing(*arguments: str) -> list[str]:
    """Return a command line with one rank of vigmpi, and one that never starts MPI."""
    rank = ["sh", "-c", 'echo $$ > pid; exec "$@"', "sh", *vigmpi("--replicas", "2", *arguments)]
    return [*mpiexec(1), *rank, ":", "-n", "1", "sleep", "100"]


def test_ranks_that_do_not_meet_in_time_end_with_one_line(tmp_path: Path) -> None:
    begun = time.monotonic()
    process = start(missing("--start-timeout", "3"), cwd=tmp_path)
    done = finish(process, timeout=60)
    assert done.returncode != 0
    assert time.monotonic() - begun < 30
    [line] = [line for line in done.stderr.splitlines() if "vigmpi: error" in line]
    assert line.startswith("vigmpi: error: not all ranks have met within 3 s: 2 were started, ")
    assert "--start-timeout" in line


_IMPORTS = (
    "hang = lambda name, *_: time.sleep(99) if name.startswith('vigmpi.commands') else None; "
    "sys.meta_path.insert(0, type('Finder', (), {'find_spec': staticmethod(hang)}))"
)
_CHDIR = "import os; os.chdir = lambda _: time.sleep(99)"


@pytest.mark.parametrize(
    ("hanging", "change", "message"),
    [
        (2, "from mpi4py import MPI", "no sign of ranks within 8 s: rank 2. "),
        (2, _IMPORTS, "no sign of the program after MPI has started within 8 s: rank 2 on {}. "),
        (0, _IMPORTS, "no sign of the program after MPI has started within 8 s: rank 0 on {}. "),
        (2, _CHDIR, "no sign of the configuration's arrival within 8 s: rank 2 on {}. "),
    ],
)
def test_a_rank_that_hangs_after_mpi_has_started_is_named(
    hanging: int, change: str, message: str
) -> None:
    line = error_of_a_hang(hanging, change, stages=3)
    assert line == (
        f"vigmpi: error: {message.format(platform.node())}Check what these ranks wait for, or use "
        "--start-timeout SECONDS."
    )


def test_a_rank_that_hangs_while_the_others_report_an_error_is_named() -> None:
    """All ranks know that there are too many of them, but for the one that hangs."""
    line = error_of_a_hang(2, _CHDIR, stages=2)
    assert f"no sign of the configuration's arrival within 8 s: rank 2 on {platform.node()}" in line


def error_of_a_hang(hanging: int, change: str, stages: int) -> str:
    """Run three ranks, in one of which a change of the program waits, and return the error."""
    options = ["--stages", str(stages), "--start-timeout", "8"]
    program = f"""if True:
        import sys, time
        {change}
        if "mpi4py" in sys.modules:
            time.sleep(99)
        from vigmpi.__main__ import run
        sys.argv[1:] = {options}
        run()
    """
    commands = [
        [*vigmpi(*options)] if rank != hanging else [sys.executable, "-c", program]
        for rank in range(3)
    ]
    first, *others = commands
    command = [*mpiexec(1), *first]
    for other in others:
        command += [":", "-n", "1", *other]
    done = finish(start(command), timeout=60)
    assert done.returncode != 0
    [line] = [line for line in done.stderr.splitlines() if "vigmpi: error" in line]
    return line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_rank_while_mpi_starts(tmp_path: Path, number: signal.Signals) -> None:
    process = start(missing(), cwd=tmp_path)
    pid = tmp_path / "pid"
    try:
        wait_until(lambda: pid.exists() and "libmpi" in maps(int(pid.read_text() or 1)))
        time.sleep(1)  # to be within MPI_Init
        rank = int(pid.read_text())
        os.kill(rank, number)
        wait_until(lambda: not Path(f"/proc/{rank}/exe").exists(), timeout=10)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_a_missing_mpi_library_is_an_error_of_one_line(tmp_path: Path) -> None:
    library = str(tmp_path / "libmpi.so")
    command = vigmpi("--replicas", "2", ranks=2)
    done = finish(start(command, environ={"MPI4PY_LIBMPI": library}), timeout=60)
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if "vigmpi: error" in line]
    assert "cannot load an MPI library: " in line
    assert library in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_evaluation_without_a_record(
    tmp_path: Path, number: signal.Signals
) -> None:
    trained, record = tmp_path / "run.h5", tmp_path / "test.h5"
    done = finish(start(vigmpi(*SMALL, *LENGTH, "--record", str(trained))), timeout=150)
    assert done.returncode == 0, done.stderr
    options = ["--test-steps", "0", "--batch-size", "1", "--progress", "lines"]
    checkpoint = ["--checkpoint", str(folder_of(trained)), "--record", str(record)]
    process = start(vigmpi("evaluate", *checkpoint, *options))
    assert process.stderr
    while "step 1/" not in process.stderr.readline():
        assert process.poll() is None
    assert record.exists()
    process.send_signal(number)
    done = finish(process, timeout=60)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("vigmpi: error: evaluation stopped by a signal: ")
    assert not record.exists()
    assert "Traceback" not in done.stderr


def test_the_first_ctrl_c_is_answered_and_the_second_ends_the_run(tmp_path: Path) -> None:
    record = tmp_path / "run.h5"
    options = ["--progress", "lines", "--batch-size", "4000", "--epochs", "9"]
    process = start(vigmpi("--dataset", "synthetic", *options, "--record", str(record)))
    assert process.stderr
    while not process.stderr.readline().startswith("memory"):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    answer = process.stderr.readline()
    assert answer == "stopping after this mini-batch; press Ctrl-C again to stop at once\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == -signal.SIGINT
    finish(process, timeout=10)


def test_a_clone_that_was_not_installed_runs_from_its_folder(tmp_path: Path) -> None:
    """Its metadata are hidden here; those of other packages are not."""
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.metadata as m\n"
        "known = m.distribution\n"
        "def distribution(name):\n"
        "    if name == 'vigmpi':\n"
        "        raise m.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "m.distribution = distribution\n"
    )
    record, environ = tmp_path / "run.h5", {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = finish(start(vigmpi(*SMALL, *LENGTH, "--record", str(record)), environ=environ), 150)
    assert done.returncode == 0, done.stderr
    with h5py.File(record) as file:
        assert file["versions"].attrs["vigmpi"] == "not installed"
        assert file["versions"].attrs["torch"] != "not installed"
    done = finish(start(vigmpi("--version"), environ=environ), timeout=60)
    assert done.stdout == "vigmpi not installed\n"


def _can_mount() -> bool:
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]  # noqa: S108
    try:
        return finish(start(command), timeout=10).returncode == 0
    except OSError:
        return False


def test_too_little_shared_memory_is_an_error_of_one_line(tmp_path: Path) -> None:
    if not _can_mount():
        pytest.skip("needs the right to mount a file system")

    def run(size: str) -> subprocess.CompletedProcess[str]:
        command = vigmpi(*SMALL, *LENGTH, "--replicas", "2", ranks=2)
        mount = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
        shell = ["unshare", "-m", "sh", "-c", mount, "sh", *command]
        return finish(start([*shell, "--record", str(tmp_path / f"{size}.h5")]), timeout=150)

    done = run("64m")
    assert done.returncode == 0, done.stderr
    done = run("1m")
    if "Open MPI" in MPI.Get_library_version():
        assert done.returncode == 0, done.stderr
        return
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if "vigmpi: error" in line]
    assert "too little shared memory: 1.0 MiB are free in /dev/shm, and MPICH needs 24" in line
