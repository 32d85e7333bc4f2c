"""`vigmpi export`: from a checkpoint to a compiled library."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.export.exports import need_compilers
from tests.export.test_c_library import reference
from tests.launching import finish, mpiexec, start, vigmpi
from vigmpi.checkpoint.search import Checkpoint, find, folder_of
from vigmpi.commands.trained_model import load_trained_model
from vigmpi.datasets.digits import Digits
from vigmpi.export import manifest
from vigmpi.export.compiler import LIBRARY, PROGRAM
from vigmpi.export.native_library import NativeModel
from vigmpi.phase import Phase


def run(*arguments: str, status: int = 0, environ: dict[str, str] | None = None) -> str:
    done = finish(start(vigmpi(*arguments), environ=environ), timeout=150)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Checkpoints of a short run of the study's model, with normalized images and averages."""
    need_compilers("cc", "c++", "mpicxx")
    record = tmp_path_factory.mktemp("run") / "a.h5"
    flags = ["--dataset", "digits", "--blocks", "2", "--batch-size", "20", "--steps", "5"]
    run(*flags, "--epochs", "1", "--normalize", "--ema", "0.5", "--record", str(record))
    return str(folder_of(record))


def search(checkpoint: str, *, raw: bool) -> Checkpoint:
    found = find(checkpoint)
    assert found
    return replace(found, use_averages=not raw)


@pytest.mark.parametrize(
    ("weights", "form"), [("averages", "c"), ("raw", "c"), ("averages", "packages")]
)
def test_the_library_gives_the_probabilities_of_predict(
    checkpoint: str, tmp_path: Path, weights: str, form: str
) -> None:
    digits = Digits(tmp_path, 0)
    digits.load(images=True, labels=False)
    images = np.round(255 * digits.images(Phase.TEST, np.arange(3))).astype(np.uint8)
    pixels = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    source = ["--checkpoint", checkpoint, *(["--no-ema"] if weights == "raw" else [])]
    folder = tmp_path / "export"
    flags = ["--format", "c"] if form == "c" else ["--max-batch-size", "3"]
    out = run("export", *source, *flags, "--output", str(folder), "--build")
    assert out == f"exported: {folder} (3 layers)\n"
    with NativeModel(folder) as native:
        logits = native.run(native.normalized(pixels))
        assert logits.dtype == np.float32
        model, _ = load_trained_model(search(checkpoint, raw=weights == "raw"))
        exact = reference(model, native.normalized(pixels).reshape(images.shape))
    assert np.abs(logits - exact).max() <= 5e-6 * np.abs(exact).max()
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    answers = json.loads(run("predict", *source, "--format", "json", *paths))
    expected = [list(answer["classes"].values()) for answer in answers]
    np.testing.assert_allclose(shares, expected, rtol=1e-4, atol=1e-6)
    values = manifest.read(folder)
    np.save(tmp_path / "images.npy", pixels)
    program = [*mpiexec(2), str(folder / PROGRAM), str(folder), str(tmp_path / "images.npy")]
    done = finish(start([*program, "--stages", "2"], environ={"PATH": os.environ["PATH"]}), 60)
    assert done.returncode == 0, done.stderr
    for number, (line, row) in enumerate(zip(done.stdout.splitlines(), shares, strict=True)):
        assert line == f"{number}  {row.argmax()}  {row.max():.1%}"
    load = ["--output", str(tmp_path / "load.h5"), "--requests", "40", "--warm-up", "10"]
    assert "2 in flight" in run("load-test", *load, "--in-flight", "2", "--", *program)
    assert [layer["name"] for layer in values["layers"]] == ["block 0", "block 1", "head"]
    assert values["classes"] == list("0123456789")


def test_an_export_is_replaced_only_on_demand_and_only_by_an_export(
    checkpoint: str, tmp_path: Path
) -> None:
    source = ["--checkpoint", checkpoint, "--format", "c"]
    folder, other = tmp_path / "a", tmp_path / "b"
    run("export", *source, "--output", str(folder))
    assert not (folder / LIBRARY).exists()
    refused = run("export", *source, "--output", str(folder), status=2)
    assert f"output exists: {folder}. Use --overwrite" in refused
    run("export", *source, "--output", str(folder), "--overwrite", "--build")
    assert (folder / LIBRARY).exists()
    other.mkdir()
    (other / "precious").touch()
    for text in (None, "[project]\nname = 'mine'\n"):
        if text:
            (other / manifest.NAME).write_text(text)
        refused = run("export", *source, "--output", str(other), "--overwrite", status=2)
        assert "Use a folder that vigmpi export has written" in refused or "format of an" in refused
        assert (other / "precious").exists()
    assert not list(tmp_path.glob(".*"))


def test_what_cannot_be_exported_is_refused_in_one_line(checkpoint: str, tmp_path: Path) -> None:
    source = ["--checkpoint", checkpoint, "--format", "c"]
    nowhere = run("export", *source, "--output", str(tmp_path / "no/a"), status=2)
    assert "cannot write the export: " in nowhere
    without = {"PATH": "/nowhere"}
    flags = [*source, "--output", str(tmp_path / "a"), "--build"]
    compiler = run("export", *flags, status=2, environ=without)
    assert "cannot run the compiler: cc (No such file or directory). Install" in compiler
    record = tmp_path / "vig.h5"
    limits = ["--batch-size", "4", "--steps", "1", "--test-steps", "1", "--epochs", "1"]
    run("--model", "vig_cifar", "--dataset", "digits", *limits, "--record", str(record))
    vig = ["--checkpoint", str(folder_of(record)), "--format", "c"]
    model = run("export", *vig, "--output", str(tmp_path / "a"), status=2)
    assert "no C form of this model: --format c for --model vig_cifar. Use" in model
    other = run("export", *source, "--output", str(tmp_path / "a"), "--threads", "2", status=2)
    assert "option of another form: --threads 2 with --format c. Omit --threads, or" in other
    for error in (nowhere, compiler, model, other):
        assert error.count("\n") == 1
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "a").exists()
