import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tests.launching import finish, start, vigmpi
from tests.weights import copy_with_a_damaged_newer_one, verified_weights
from vigmpi.checkpoint import manifest
from vigmpi.checkpoint.search import find, folder_of
from vigmpi.datasets.digits import Digits
from vigmpi.models import build
from vigmpi.phase import Phase


def run(*arguments: str, ranks: int | None = None, status: int = 0) -> str:
    done = finish(start(vigmpi(*arguments, ranks=ranks)), timeout=150)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if status == 0 else done.stderr


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a short run with normalized images."""
    record = tmp_path_factory.mktemp("run") / "a.h5"
    flags = ["--dataset", "digits", "--blocks", "1", "--batch-size", "20", "--steps", "3"]
    more = ["--epochs", "1", "--readout", "mean", "--normalize", "--record", str(record)]
    run(*flags, *more)
    newest = find(str(folder_of(record)))
    assert newest
    return newest.path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], np.ndarray]:
    """Three digits as files, and as an array [images, 3, 32, 32] in [0, 1]."""
    folder = tmp_path_factory.mktemp("pictures")
    digits = Digits(folder, 0)
    digits.load(images=True, labels=False)
    images = digits.images(Phase.TEST, np.arange(3))
    paths = [str(folder / f"{i}.png") for i in range(3)]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(np.round(255 * image).astype(np.uint8).transpose(1, 2, 0)).save(path)
    return paths, images


def test_probabilities_are_those_of_the_model(
    checkpoint: Path, pictures: tuple[list[str], np.ndarray]
) -> None:
    paths, images = pictures
    about = manifest.read(checkpoint)
    model = build(blocks=1, readout="mean").eval()
    tensors = {name: torch.tensor(v) for name, v in verified_weights(checkpoint).items()}
    model.load_state_dict({name: tensors[name] for name in model.state_dict()})
    mean, std = np.array(about.normalization, dtype=np.float32)[:, None, :, None, None]
    with torch.no_grad():
        expected = model(torch.from_numpy((images - mean) / std)).softmax(dim=1).numpy()

    answers = json.loads(
        run("predict", "--checkpoint", str(checkpoint), "--format", "json", *paths)
    )
    assert [answer["image"] for answer in answers] == paths
    for answer, row in zip(answers, expected, strict=True):
        assert list(answer["classes"]) == list("0123456789")
        np.testing.assert_allclose(list(answer["classes"].values()), row, rtol=1e-3, atol=1e-6)

    table = run("predict", "--checkpoint", str(checkpoint), *paths).splitlines()
    for line, path, row in zip(table, paths, expected, strict=True):
        name, first, share, *_ = line.split()
        assert (name, int(first)) == (path, row.argmax())
        assert float(share.rstrip("%")) == pytest.approx(100 * row.max(), abs=0.1)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_files_of_weights_with_the_names_of_the_studys_code_are_accepted(
    tmp_path: Path, pictures: tuple[list[str], np.ndarray], suffix: str
) -> None:
    paths, images = pictures
    model = build(seed=3, readout="sum").eval()
    file = tmp_path / f"study{suffix}"
    if suffix == ".pt":
        torch.save(model.state_dict(), file)
    else:
        save_file(model.state_dict(), file)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).argmax(dim=1)
    answers = json.loads(run("predict", "--checkpoint", str(file), "--format", "json", *paths))
    for answer, label in zip(answers, expected, strict=True):
        shares = answer["classes"]
        assert list(shares).index(max(shares, key=shares.__getitem__)) == label


def test_the_model_is_that_of_the_manifest_whatever_the_settings(
    checkpoint: Path, pictures: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    paths, _ = pictures
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    content = replace(manifest.read(copy), settings={"blocks": 7, "readout": "sum"})
    (copy / manifest.NAME).write_bytes(content.encode())
    answers = [
        run("predict", "--checkpoint", str(each), "--format", "json", *paths)
        for each in (checkpoint, copy)
    ]
    assert answers[0] == answers[1]


def test_an_older_checkpoint_is_used_with_a_warning_if_a_shard_is_damaged(
    checkpoint: Path, pictures: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    paths, _ = pictures
    damaged = copy_with_a_damaged_newer_one(checkpoint, tmp_path)
    done = finish(
        start(vigmpi("predict", "--checkpoint", str(tmp_path), "--format", "json", *paths)), 150
    )
    assert done.stdout == run(
        "predict", "--checkpoint", str(checkpoint), "--format", "json", *paths
    )
    assert done.stderr == (
        f"vigmpi: warning: checkpoint skipped: damaged checkpoint: {damaged} "
        f"(truncated or modified).\n"
    )


def test_folders_and_patterns_are_classified_in_any_format(
    checkpoint: Path, pictures: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    paths, _ = pictures
    folder = tmp_path / "more"
    (folder / "below").mkdir(parents=True)
    for number, path in enumerate(paths):
        shutil.copy(path, folder / ("below" if number else "") / f"{number}.png")
    (folder / "Thumbs.db").write_bytes(b"")
    (folder / "below/notes.txt").write_text("no image")
    names = [str(folder / name) for name in ("0.png", "below/1.png", "below/2.png")]
    predict = ["predict", "--checkpoint", str(checkpoint), "--format"]
    whole = json.loads(run(*predict, "json", str(folder)))
    assert [answer["image"] for answer in whole] == names
    assert json.loads(run(*predict, "json", f"{folder}/**/*.*")) == whole
    assert json.loads(run(*predict, "json", str(folder / "below/[2]*"), names[0])) == [
        whole[2],
        whole[0],
    ]
    (folder / "below/cycle").symlink_to(folder)
    (folder / "@eaDir").mkdir()
    shutil.copy(paths[0], folder / "@eaDir/0.png")
    assert json.loads(run(*predict, "json", f"{folder}/**/[0-9]*.png")) == whole
    (folder / "below/cycle").unlink()
    assert json.loads(run(*predict, "json", f"{folder}/*")) == whole
    hidden = tmp_path / ".hidden"
    folder.rename(hidden)
    assert len(json.loads(run(*predict, "json", f"{hidden}/../.hidden/*/*.png"))) == 2
    hidden.rename(folder)
    assert json.loads(run(*predict, "json", f"{tmp_path}/m*")) == whole
    header, *rows = csv.reader(run(*predict, "csv", str(folder)).splitlines())
    assert header == ["image", "class", "problem", *"0123456789"]
    for row, answer in zip(rows, whole, strict=True):
        image, name, problem, *shares = row
        assert (image, problem) == (answer["image"], "")
        assert name == max(answer["classes"], key=answer["classes"].__getitem__)
        np.testing.assert_allclose(
            [float(x) for x in shares], list(answer["classes"].values()), 1e-5
        )


@pytest.mark.parametrize("style", ["table", "csv", "json"])
def test_an_unreadable_image_does_not_end_the_others(
    checkpoint: Path, pictures: tuple[list[str], np.ndarray], tmp_path: Path, style: str
) -> None:
    [first, second, _], _ = pictures
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    predict = ["predict", "--checkpoint", str(checkpoint), "--format", style]
    done = finish(start(vigmpi(*predict, first, str(broken), second)), timeout=150)
    assert done.returncode == 1
    assert done.stderr == (
        f"vigmpi: error: cannot read 1 of 3 images: {broken} (format not supported by Pillow). "
        "Replace or remove them; the others have been classified.\n"
    )

    def lines(text: str) -> list[str]:
        """Return the lines of readable images, without padding and separators."""
        kept = [line for line in text.splitlines() if str(broken) not in line]
        return [" ".join(line.rstrip(",").split()) for line in kept]

    assert lines(done.stdout) == lines(run(*predict, first, second))
    [line] = [line for line in done.stdout.splitlines() if str(broken) in line]
    assert "format not supported by Pillow" in line
    if style == "json":
        assert json.loads(done.stdout)[1] == {
            "image": str(broken),
            "problem": "format not supported by Pillow",
        }


def test_an_image_is_turned_upright(
    checkpoint: Path, pictures: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    [first, *_], _ = pictures
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(first) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    predict = ["predict", "--checkpoint", str(checkpoint), "--format", "json"]
    [upright, turned] = json.loads(run(*predict, first, str(tmp_path / "turned.png")))
    assert upright["classes"] == turned["classes"]


@pytest.mark.slow
def test_unusable_images_and_weights_are_reported_in_one_line(
    checkpoint: Path, pictures: tuple[list[str], np.ndarray], tmp_path: Path
) -> None:
    [picture, *_], _ = pictures
    (tmp_path / "b.pt").write_bytes(b"\x80\x04cos\nsystem\n(S'true'\ntR.")
    predict = ["predict", "--checkpoint", str(checkpoint)]
    for flags, message in (
        ([*predict, str(tmp_path / "none.png")], "none.png (No such file or directory). Use"),
        ([*predict, "x" * 300], "x (File name too long). Use"),
        ([*predict, str(tmp_path / "**.png")], "cannot use the pattern: "),
        ([*predict, f"{tmp_path}/"], f"no images: {tmp_path}/. Use a folder"),
        ([*predict, str(tmp_path / "*.png")], f"no images: {tmp_path}/*.png. Use a folder"),
        ([*predict], "IMAGE. See vigmpi predict --help."),
        (["predict", picture], "--checkpoint. See vigmpi predict --help."),
        (["predict", "--checkpoint", str(tmp_path / "b.pt"), picture], "cannot read the weights: "),
        (["predict", "--checkpoint", "x" * 300, picture], "x (File name too long). Use"),
    ):
        error = run(*flags, status=2)
        assert message in error
        assert error.count("\n") == 1
        assert error.endswith(".\n")
    assert "predict runs on one rank, but 2" in run(*predict, picture, ranks=2, status=2)
