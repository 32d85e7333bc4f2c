"""Output that nobody reads, or that cannot be written, changes nothing about a run."""

import fcntl
import os
from pathlib import Path

import h5py
import pytest

from tests.launching import finish, mpiexec, start, vigmpi
from vigmpi.checkpoint.search import find, folder_of

RUN = ("--dataset", "synthetic", "--blocks", "1", "--batch-size", "4", "--steps", "30")
LENGTH = ("--test-steps", "2", "--epochs", "1")


def redirected(redirection: str, command: list[str]) -> list[str]:
    return ["sh", "-c", f'"$@" {redirection}', "sh", *command]


def check_complete(record: Path) -> None:
    with h5py.File(record) as file:
        assert file.attrs["steps_done"] == len(file["steps/loss"]) == 32
        assert file.attrs["checkpoints"] == 1
    assert find(str(folder_of(record)))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [None, 2])
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", ">&- 2>&-", ">/dev/full"])
def test_a_run_whose_output_cannot_be_written_is_complete(
    tmp_path: Path, redirection: str, ranks: int | None
) -> None:
    """The launcher itself can write: MPICH's ends all ranks if it cannot."""
    record = tmp_path / "run.h5"
    launcher, layout = (mpiexec(ranks), ["--replicas", "2"]) if ranks else ([], [])
    command = vigmpi(*RUN, *LENGTH, *layout, "--record", str(record))
    done = finish(start([*launcher, *redirected(redirection, command)]), timeout=150)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert (redirection != ">/dev/full") or "cannot write to standard output" in done.stderr
    check_complete(record)


def test_a_reader_that_ends_or_never_reads_does_not_stop_a_run(tmp_path: Path) -> None:
    for reads in (True, False):
        record = tmp_path / f"{reads}.h5"
        reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        with os.fdopen(writer, "w") as pipe:
            command = vigmpi(*RUN, *LENGTH, "--progress", "bar", "--record", str(record))
            process = start(command, stderr=pipe)
        if reads:
            os.read(reader, 10)
            os.close(reader)
        assert finish(process, timeout=150).returncode == 0
        check_complete(record)
        if not reads:
            os.close(reader)


@pytest.mark.parametrize(("command", "ranks"), [("models", None), ("evaluate", 2)])
def test_a_result_that_cannot_be_written_is_an_error_of_one_line(
    tmp_path: Path, command: str, ranks: int | None
) -> None:
    arguments = [command]
    if command == "evaluate":
        record = tmp_path / "run.h5"
        finish(start(vigmpi(*RUN, *LENGTH, "--record", str(record))), timeout=150)
        arguments += ["--checkpoint", str(folder_of(record)), "--progress", "off"]
        arguments += ["--replicas", "2", "--test-steps", "2"]
    program = redirected(">/dev/full", vigmpi(*arguments))
    launcher = mpiexec(ranks) if ranks else []
    done = finish(start([*launcher, *program]), timeout=150)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(
        "vigmpi: error: cannot write to standard output: No space left on device. Use "
    )
    assert "Traceback" not in done.stderr
