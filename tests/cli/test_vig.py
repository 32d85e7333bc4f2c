"""ViG models from the command line: options, layouts, checkpoints and published weights."""

import json
import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F

from tests.images import random_images, write_prepared
from tests.launching import finish, mpiexec, start, vigmpi
from tests.weights import assert_equal_weights
from tests.weights import weights as tensors_of
from vigmpi.checkpoint.search import find, folder_of
from vigmpi.host import matmul_library
from vigmpi.models import MODELS, build
from vigmpi.phase import Phase

SMALL = ("--dataset", "digits", "--model", "vig_cifar", "--batch-size", "10", "--progress", "off")
RESIZED = "note: position tables interpolated to another image size:"
LENGTH = ("--steps", "4", "--test-steps", "2", "--threads", "1")
# Another number of epochs does not change a constant learning rate.
CONSTANT = ("--lr-schedule", "constant", "--warm-up", "0")
OPTIONS = ("--chunks", "3", "--drop-path", "0.2", "--lr", "1e-3", *CONSTANT)


def run(*arguments: str, ranks: int | None = None, status: int = 0) -> str:
    done = finish(start(vigmpi(*arguments, ranks=ranks)), timeout=150)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def newest(record: Path) -> Path:
    found = find(str(folder_of(record)))
    assert found
    return found.path


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record of two epochs on one rank."""
    path = tmp_path_factory.mktemp("vig") / "one.h5"
    run(*SMALL, *LENGTH, *OPTIONS, "--epochs", "2", "--record", str(path))
    return path


def test_a_measured_split_changes_no_bit_and_is_not_measured_again_on_resuming(
    one_rank: Path, tmp_path: Path
) -> None:
    record = tmp_path / "two.h5"
    measured = ("--stages", "2", "--split", "measured", "--epochs", "1")
    run(*SMALL, *LENGTH, *OPTIONS, *measured, "--record", str(record), ranks=2)
    with h5py.File(record) as file:
        settings = dict(file["configuration"].attrs)
        layers = [name.decode() for name in file["layer"]]
    for direction in ("forward", "backward"):
        seconds = settings[f"measured_{direction}_s"]
        assert len(seconds) == len(layers)
        assert (seconds > 0).all()
    [cut] = settings["split_after"]
    assert cut in layers[:-1]

    resumed = ("--resume", str(folder_of(record)), "--epochs", "2")
    other = ("--stages", "3", "--split", "measured", "--record", str(tmp_path / "three.h5"))
    run(*resumed, "--threads", "1", *other, ranks=3)
    with h5py.File(tmp_path / "three.h5") as file:
        again = dict(file["configuration"].attrs)
        assert file["ranks/num_layers"][:].sum() == len(layers)
    for direction in ("forward", "backward"):
        name = f"measured_{direction}_s"
        np.testing.assert_array_equal(again[name], settings[name])
    assert_equal_weights(newest(tmp_path / "three.h5"), newest(one_rank))

    run(*resumed, "--threads", "1", "--record", str(record), ranks=2)
    assert_equal_weights(newest(record), newest(one_rank))
    with h5py.File(record) as file, h5py.File(one_rank) as expected:
        np.testing.assert_array_equal(file["steps/loss"][:], expected["steps/loss"][:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "side", "cut", "other_cut"),
    [("vig_ti", 128, "block 2", "block 7"), ("pvig_ti", 192, "downsample 1", "block 3")],
)
def test_published_models_resume_on_another_split(
    tmp_path: Path, model: str, side: int, cut: str, other_cut: str
) -> None:
    data = ("--dataset", "synthetic", "--image-size", f"{side}", "--model", model)
    options = ("--batch-size", "5", "--chunks", "2", "--steps", "4", "--test-steps", "1")
    common = (*data, *options, "--threads", "1", "--lr", "1e-3", *CONSTANT, "--progress", "off")
    run(*common, "--epochs", "2", "--record", str(tmp_path / "one.h5"))
    two = ("--stages", "2", "--split-after", cut, "--record", str(tmp_path / "two.h5"))
    run(*common, "--epochs", "1", *two, ranks=2)
    resumed = ("--resume", str(tmp_path / "two.h5.checkpoints"), "--epochs", "2", "--threads", "1")
    run(*resumed, "--split-after", other_cut, "--record", str(tmp_path / "b.h5"), ranks=2)
    assert_equal_weights(newest(tmp_path / "b.h5"), newest(tmp_path / "one.h5"))


def test_a_trained_model_is_evaluated_and_predicts(one_rank: Path, tmp_path: Path) -> None:
    checkpoint = str(folder_of(one_rank))
    options = ("--test-steps", "2", "--record", str(tmp_path / "e.h5"), "--stages", "2")
    out = run("evaluate", "--checkpoint", checkpoint, *options, ranks=2)
    [[loss, images]] = re.findall(r"loss (\S+), accuracy .* on (\d+) images", out)
    with h5py.File(one_rank) as file:
        last = file["steps/loss"][-2:]
    assert images == "20"
    assert float(loss) == pytest.approx(last.mean(), rel=1e-4)
    pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8).numpy()
    path = tmp_path / "a.png"
    Image.fromarray(pixels).save(path)
    [answer] = json.loads(run("predict", "--checkpoint", checkpoint, "--format", "json", str(path)))
    assert sum(answer["classes"].values()) == pytest.approx(1, abs=1e-5)


def test_published_weights_are_fine_tuned_for_other_classes_and_another_size(
    tmp_path: Path,
) -> None:
    """The file has the published names and shapes: 1000 classes, 224 pixels."""
    published = build("pvig_ti", num_classes=1000, image_size=(224, 224), seed=7).state_dict()
    published["pos_embed"].uniform_(-1, 1, generator=torch.Generator().manual_seed(1))
    torch.save(published, tmp_path / "pvig_ti_78.5.pth.tar")
    save_file(published, tmp_path / "pvig_ti.safetensors")
    write_prepared(tmp_path / "a.h5", random_images((64, 96), 3), 3)
    data = ("--dataset", "folder", "--data-dir", str(tmp_path / "a.h5"), "--model", "pvig_ti")
    training = ("--batch-size", "4", "--steps", "1", "--epochs", "1", "--test-steps", "1")
    weights = str(tmp_path / "pvig_ti_78.5.pth.tar")
    error = run(*data, *training, "--resume", weights, status=2)
    assert "prediction.4.weight of shape [1000, 1024, 1, 1] instead of [3, 1024, 1, 1]" in error
    assert "--replace-head" in error

    states = []
    for name in ("pvig_ti_78.5.pth.tar", "pvig_ti.safetensors"):
        record = tmp_path / f"{name}.h5"
        options = ("--resume", str(tmp_path / name), "--replace-head", "--stages", "2")
        lr = ("--lr", "1e-12", "--record", str(record), "--progress", "lines")
        out = run(*data, *training, *options, *lr, ranks=2)
        assert f"{RESIZED} pos_embed from 56x56 to 16x24." in out
        states.append(newest(record))
    assert_equal_weights(*states)
    tuned = tensors_of(states[0])
    for name, tensor in published.items():
        if name.startswith("prediction") or "running" in name or "num_batches" in name:
            continue
        expected = tensor
        if "relative_pos" in name or name == "pos_embed":
            maps = tensor if name == "pos_embed" else tensor[None]
            size = tuned[name].shape[-2:]
            assert size != tensor.shape[-2:]
            expected = F.interpolate(maps, size, mode="bicubic").view(tuned[name].shape)
        np.testing.assert_allclose(tuned[name], expected, atol=1e-6, err_msg=name)
    assert tuned["prediction.4.weight"].shape == (3, 1024, 1, 1)


def test_replacing_the_head_starts_a_new_run(one_rank: Path, tmp_path: Path) -> None:
    write_prepared(
        tmp_path / "a.h5", random_images((32, 32), 3, {Phase.TRAIN: 20, Phase.TEST: 4}), 3
    )
    data = ("--dataset", "folder", "--data-dir", str(tmp_path / "a.h5"))
    checkpoint = ("--resume", str(folder_of(one_rank)), "--replace-head")
    record = tmp_path / "tuned.h5"
    run(*checkpoint, *data, "--epochs", "1", "--record", str(record))
    with h5py.File(record) as file, h5py.File(one_rank) as other:
        assert file["mini_batch"][0] == 0
        assert file.attrs["run"] != other.attrs["run"]
        assert file["configuration"].attrs["model"] == "vig_cifar"
    again = ("--resume", str(folder_of(record)), "--epochs", "2")
    run(*again, "--record", str(record))
    with h5py.File(record) as file:
        assert file["steps/epoch"][-1] == 1


@pytest.mark.slow
def test_a_run_continues_at_another_image_size(tmp_path: Path) -> None:
    synthetic = ("--dataset", "synthetic", "--model", "vig_cifar", "--batch-size", "4")
    short = ("--steps", "1", "--test-steps", "1", "--progress", "lines")
    first = ("--image-size", "32", "--epochs", "1", "--record", str(tmp_path / "a.h5"))
    run(*synthetic, *short, *first)
    checkpoint = str(tmp_path / "a.h5.checkpoints")
    larger = ("--image-size", "40x48", "--record", str(tmp_path / "b.h5"))
    out = run("--resume", checkpoint, "--epochs", "2", *larger)
    note = f"{RESIZED} pos_embed from 16x16 to 20x24."
    assert note in out
    out = run("evaluate", "--checkpoint", checkpoint, "--image-size", "40x48", "--test-steps", "1")
    assert note in out


def test_models_are_listed_with_their_layers() -> None:
    table = run("models")
    for name in MODELS:
        assert re.search(rf"^{name} ", table, re.MULTILINE)
    assert "12,486,314" in table
    layers = run("models", "vig_ti")
    assert re.search(r"^block 11 +192x14x14 +192x14x14 +[\d,]+ +[\d,]+ +yes$", layers, re.MULTILINE)
    [total] = re.findall(r"^total +7,184,744 +([\d,]+)$", layers, re.MULTILINE)
    assert int(total.replace(",", "")) == pytest.approx(1.301e9, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "vig_tiny"), "'vig_tiny'"),
        (("--model", "vig_ti", "--blocks", "4"), "--blocks 4 for --model vig_ti. Omit --blocks"),
        (("--conv", "gin"), "--conv gin for --model study"),
        (
            ("--model", "pvig_ti", "--dataset", "synthetic", "--image-size", "100"),
            "96x96 or 128x128",
        ),
        (("--image-size", "64", "--dataset", "digits"), "--image-size 64x64 for --dataset digits"),
        (("--image-size", "0x64"), "expected N or HEIGHTxWIDTH, not '0x64'"),
        (("--model", "vig_cifar", "--batch-size", "9", "--chunks", "5"), "Use --chunks 3 or"),
        (("--replace-head",), "--replace-head without weights"),
        (("--model", "vig_ti", "--stages", "1", "--split", "13"), "12 blocks"),
        (("models", "--conv", "gin"), "option without a model"),
        (
            ("--precision", "bf16"),
            "--precision bf16 for --model study. Omit --precision, or use one of these models: "
            "vig_ti",
        ),
        (("--matmul", "onednn"), "--matmul onednn for --model study"),
        (
            ("--model", "vig_cifar", "--precision", "bf16", "--backend", "reference"),
            "--precision bf16 for --backend reference. Use --backend fast",
        ),
    ],
)
def test_invalid_options_of_models(arguments: tuple[str, ...], message: str) -> None:
    done = finish(start(vigmpi(*arguments)), timeout=100)
    assert done.returncode == 2, done.stderr
    [line] = [text for text in done.stderr.splitlines() if "vigmpi" in text]
    assert message in line
    assert line.endswith(".")


def test_precision_and_library_are_recorded_and_kept_when_a_run_is_resumed(tmp_path: Path) -> None:
    options = ("--model", "vig_cifar", "--dataset", "digits", "--batch-size", "8", "--chunks", "2")
    steps = ("--steps", "2", "--test-steps", "1", "--threads", "1", "--progress", "off")
    precision = ("--precision", "bf16", "--matmul", "onednn", *CONSTANT)
    one, two = tmp_path / "one.h5", tmp_path / "two.h5"
    run(*options, *steps, *precision, "--epochs", "2", "--record", str(one))
    shorter = ("--epochs", "1", "--stages", "2", "--record", str(two))
    run(*options, *steps, *precision, *shorter, ranks=2)
    resumed = ("--resume", str(folder_of(two)), "--epochs", "2", "--threads", "1")
    run(*resumed, "--record", str(two), ranks=2)
    assert_equal_weights(newest(two), newest(one))
    with h5py.File(two) as file:
        settings = dict(file["configuration"].attrs)
        assert (settings["precision"], settings["matmul"]) == ("bf16", "onednn")
    image = torch.randint(256, (32, 32, 3), dtype=torch.uint8).numpy()
    Image.fromarray(image).save(tmp_path / "a.png")
    checkpoint = ("--checkpoint", str(folder_of(two)))
    run("predict", *checkpoint, str(tmp_path / "a.png"))
    other = ("--precision", "fp32", "--matmul", "blas", "--record", str(tmp_path / "e.h5"))
    run("evaluate", *checkpoint, *other)


def test_without_an_option_the_library_is_that_of_the_processor(one_rank: Path) -> None:
    with h5py.File(one_rank) as file:
        assert file["configuration"].attrs["matmul"] == matmul_library()
        assert file["configuration"].attrs["precision"] == "fp32"


def test_a_processor_without_bfloat16_instructions_causes_one_warning(tmp_path: Path) -> None:
    program = "from vigmpi import __main__, host; from pathlib import Path; "
    program += "host._CPU_INFO = Path('nowhere'); __main__.run()"
    options = ("--precision", "bf16", "--record", str(tmp_path / "a.h5"), "--stages", "2")
    steps = ("--steps", "1", "--test-steps", "1", "--epochs", "1")
    command = [*mpiexec(2), sys.executable, "-c", program, *SMALL, *options, *steps]
    done = finish(start(command), timeout=100)
    assert done.returncode == 0, done.stderr
    text = "warning: --precision bf16 on a processor without bfloat16 instructions"
    assert (done.stdout + done.stderr).count(text) == 1


def test_a_measured_split_on_one_stage_can_be_resumed(tmp_path: Path) -> None:
    record = ("--record", str(tmp_path / "a.h5"))
    run(
        *SMALL, "--steps", "1", "--test-steps", "1", "--epochs", "1", "--split", "measured", *record
    )
    run("--resume", str(tmp_path / "a.h5.checkpoints"), "--epochs", "2", *record)


def test_a_checkpoint_with_another_graph_convolution_or_model_is_refused(tmp_path: Path) -> None:
    data = ("--dataset", "digits", "--model", "vig_ti", "--batch-size", "2", "--progress", "off")
    short = ("--steps", "1", "--test-steps", "1", "--epochs", "1")
    run(*data, *short, "--record", str(tmp_path / "a.h5"))
    resumed = ("--resume", str(tmp_path / "a.h5.checkpoints"), "--epochs", "2")
    assert "has conv mr instead of edge" in run(*resumed, "--conv", "edge", status=2)
    error = run(*resumed, "--model", "vig_cifar", status=2)
    assert "checkpoint of another model" in error


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(build("vig_cifar").state_dict(), tmp_path / "cifar.pt")
    flags = ("--dataset", "digits", "--model", "vig_ti", "--resume", str(tmp_path / "cifar.pt"))
    error = run(*flags, "--batch-size", "4", status=2)
    assert "checkpoint of another model" in error
    assert "Use the --model" in error
