"""One clear line from one rank, status 2, no hang."""

from pathlib import Path

import h5py
import pytest

from tests.images import random_images, write_pictures, write_prepared
from tests.launching import finish, start, vigmpi


def refused(command: list[str], environ: dict[str, str] | None = None) -> str:
    done = finish(start(command, environ=environ), timeout=150)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if "vigmpi" in line]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert lines[0].startswith("vigmpi: error: ")
    assert "type: " in lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stages", "2", "--replicas", "2"], "needs 4 ranks, 2 were started"),
        (["--stages", "9"], "--stages 9 is more than the model's 8 blocks"),
        (["--stages", "2", "--split", "4,3"], "sum to 8 blocks"),
        (["--chunks", "300"], "--chunks 300 is more than the 100 images"),
        (["--stagse", "2"], "unknown setting --stagse; type: --stages"),
        (["trian"], "unknown command trian"),
    ],
)
def test_settings_that_do_not_fit(arguments: list[str], message: str) -> None:
    assert message in refused(vigmpi(*arguments, ranks=2))


def test_a_launch_that_made_worlds_of_one() -> None:
    """Srun without an MPI type, as its environment shows it to one of two tasks."""
    environ = {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}
    assert "srun --mpi=" in refused(vigmpi("--stages", "2"), environ)


def test_data_that_is_not_there(tmp_path: Path) -> None:
    flags = ["--dataset", "cifar10", "--data-dir", str(tmp_path)]
    assert "CIFAR-10 is not in" in refused(vigmpi("--stages", "2", *flags, ranks=2))


def test_a_prepared_file_that_reads_elsewhere(tmp_path: Path) -> None:
    def spoil(file: h5py.File) -> None:
        del file["test"]
        file["test"] = h5py.ExternalLink("other.h5", "/test")

    write_prepared(tmp_path / "cifar10.h5", random_images((6, 5), 3), 3, spoil)
    line = refused(vigmpi("--stages", "2", "--data-dir", str(tmp_path), ranks=2))
    assert "cifar10.h5 can't be read as a prepared file (" in line


def test_a_crop_that_leaves_nothing_and_a_mean_that_is_not_there(tmp_path: Path) -> None:
    folder = ["--dataset", "folder", "--data-dir", str(tmp_path)]
    write_pictures(tmp_path, ["a", "b"], (6, 5))
    assert "out of sight" in refused(
        vigmpi("--stages", "2", *folder, "--random-crop", "5", ranks=2)
    )
    assert "--no-normalize" in refused(vigmpi("--stages", "2", *folder, "--normalize", ranks=2))


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    output = str(tmp_path / "nowhere" / "run.h5")
    assert "can't be written" in refused(vigmpi("--stages", "2", "--record", output, ranks=2))


def test_an_output_that_exists(tmp_path: Path) -> None:
    output = tmp_path / "run.h5"
    output.write_text("precious")
    assert "--overwrite" in refused(vigmpi("--replicas", "2", "--record", str(output), ranks=2))
    assert output.read_text() == "precious"


def test_more_images_than_the_memory_holds() -> None:
    line = refused(vigmpi("--replicas", "2", "--batch-size", "1000000", ranks=2))
    assert "images fit; type: --batch-size " in line
    fitting = int(line.split()[-1])
    assert 100 <= fitting < 1_000_000


def test_single_images_are_warned_of_once(tmp_path: Path) -> None:
    flags = [
        "--batch-size",
        "2",
        "--chunks",
        "2",
        "--steps",
        "1",
        "--test-steps",
        "1",
        "--epochs",
        "1",
    ]
    command = vigmpi(*flags, "--blocks", "1", "--record", str(tmp_path / "run.h5"))
    done = finish(start(command), timeout=150)
    assert done.returncode == 0
    assert done.stderr.count("hold a single image, and batch norm leaves it no signal") == 1
