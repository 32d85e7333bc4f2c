"""The installed package, away from the repository."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import h5py
import pytest

from tests.images import write_image_files
from tests.launching import ROOT, finish, mpiexec, start


def succeed(command: Sequence[object], cwd: Path, installed: Path | None = None) -> str:
    environ = {"PYTHONPATH": str(installed)} if installed else {}
    done = finish(start([*map(str, command)], cwd=cwd, environ=environ), timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


pytestmark = pytest.mark.slow  # compiles the kernels


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which a wheel of this repository is installed."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "vigmpi", source / "vigmpi")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    succeed([*pip, "wheel", "--no-deps", "--no-build-isolation", "."], source)
    [wheel] = source.glob("vigmpi-*.whl")
    succeed([*pip, "install", "--no-deps", "--target", folder, wheel], source)
    return folder


def test_the_console_script_prepares_images_and_trains_on_them(
    installed: Path, tmp_path: Path
) -> None:
    vigmpi = installed / "bin/vigmpi"
    where = [sys.executable, "-c", "import vigmpi; print(vigmpi.__file__)"]
    assert succeed(where, tmp_path, installed).startswith(str(installed))
    assert succeed([vigmpi, "--version"], tmp_path, installed).startswith("vigmpi 0.")

    write_image_files(tmp_path / "photos", ["ant", "cat", "owl"], (9, 9))
    prepare = [vigmpi, "prepare", "photos", "--image-size", "8"]
    assert succeed(prepare, tmp_path, installed).startswith("prepared: data/photos.h5 (3 classes")
    data = ["--dataset", "folder", "--data-dir", "data/photos.h5", "--blocks", "2"]
    length = ["--epochs", "1", "--batch-size", "6", "--record", "run.h5"]
    train = [*mpiexec(2), vigmpi, "train", "--stages", "2", "--chunks", "2", *data, *length]
    assert "record: run.h5" in succeed(train, tmp_path, installed)
    with h5py.File(tmp_path / "run.h5") as file:
        assert file.attrs["steps_done"] == 4
    export = [vigmpi, "export", "--checkpoint", "run.h5.checkpoints", "--format", "c"]
    expected = "exported: library (3 layers)\n"
    assert succeed([*export, "--output", "library", "--build"], tmp_path, installed) == expected
