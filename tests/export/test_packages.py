"""Packages of AOTInductor: results, layouts, and what cannot be used."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.export.exports import CLASSES, MEAN, STD, need_compilers, random_generator, study
from tests.export.test_torch_form import small_vig
from tests.launching import finish, mpiexec, start
from vigmpi.errors import InputError
from vigmpi.export import manifest, packages, torch_form
from vigmpi.export.compiler import PROGRAM, build_packages, build_program, processor_instructions
from vigmpi.export.manifest import ExportedLayer
from vigmpi.export.native_library import NativeModel
from vigmpi.models.model import Model

pytestmark = pytest.mark.slow
MAX_BATCH = 6


def target() -> packages.Target:
    return packages.Target(MAX_BATCH, 1, tuple(processor_instructions()))


def export_packages(model: Model, dtype: torch.dtype, folder: Path, classes: int) -> Path:
    """Compile a model into a new folder, without the library."""
    folder.mkdir()
    _, height, width = model.layers[0].inputs.shape
    layers = model.layers
    names = [layer.name for layer in layers]
    exportable = torch_form.exportable_layers(model, dtype)
    compiled = packages.compile_layers(
        dict(zip(names, exportable, strict=True)), target(), folder, 2
    )
    values = {
        "form": "packages",
        "dtype": str(dtype).removeprefix("torch."),
        "image_size": [height, width],
        "num_classes": classes,
        "classes": CLASSES[:classes],
        "mean": MEAN,
        "std": STD,
        "max_batch_size": MAX_BATCH,
        "threads": 1,
    }
    exported = [
        ExportedLayer(
            layer.name,
            layer.inputs.memory_shape,
            layer.outputs.memory_shape,
            {"": (f"{i}.pt2", batch), "single_": (f"{i}-single.pt2", single)},
            {"is_block": int(layer.is_block)},
        )
        for i, (layer, (batch, single)) in enumerate(zip(layers, compiled, strict=True))
    ]
    manifest.write(folder, values, exported)
    return folder


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the library for packages and the program."""
    need_compilers("cc", "c++", "mpicxx")
    folder = tmp_path_factory.mktemp("library")
    build_packages(folder, processor_instructions())
    build_program(folder, "mpicxx")
    return folder


@pytest.fixture(scope="module")
def vig() -> Model:
    return small_vig("relu")


@pytest.fixture(scope="module")
def expected(vig: Model, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = vig(torch.from_numpy(images)).numpy()
    return logits


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return random_generator().normal(size=(13, 3, 16, 16))


@pytest.fixture(scope="module")
def folder(
    vig: Model,
    expected: np.ndarray,  # noqa: ARG001 (the export changes the model)
    library: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Export of a ViG of two blocks in float64."""
    folder = export_packages(vig, torch.float64, tmp_path_factory.mktemp("vig") / "a", 5)
    shutil.copytree(library, folder, dirs_exist_ok=True)
    return folder


def test_logits_are_those_of_the_model(
    folder: Path, images: np.ndarray, expected: np.ndarray
) -> None:
    with NativeModel(folder) as native:
        for number in (1, 2, MAX_BATCH):
            logits = native.run(images[:number])
            assert logits.dtype == np.float64
            error = np.abs(logits - expected[:number]).max()
            assert error <= 1e-12 * np.abs(expected).max()


def infer(
    folder: Path, *arguments: object, ranks: int = 1, status: int = 0
) -> subprocess.CompletedProcess[str]:
    command = [*mpiexec(ranks), str(folder / PROGRAM), str(folder), *map(str, arguments)]
    done = finish(start(command, environ={"PATH": os.environ["PATH"]}), timeout=100)
    assert done.returncode == status, done.stderr
    return done


def test_logits_are_bitwise_identical_for_any_number_of_stages(
    folder: Path, images: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "x.npy", images)
    outputs = []
    for stages, replicas in ((1, 1), (2, 1), (1, 2), (2, 2)):
        path = tmp_path / f"{stages}-{replicas}.npy"
        flags = ["--stages", stages, "--batch-size", 4, "--output", path]
        infer(folder, tmp_path / "x.npy", *flags, ranks=stages * replicas)
        outputs.append(np.load(path))
        error = np.abs(outputs[-1] - expected).max()
        assert error <= 1e-12 * np.abs(expected).max()
    np.testing.assert_array_equal(outputs[0], outputs[1])
    np.testing.assert_array_equal(outputs[2], outputs[3])


def test_pixels_are_normalized_in_float64(folder: Path) -> None:
    pixels = random_generator().integers(256, size=(3, 16, 16, 3), dtype=np.uint8)
    with NativeModel(folder) as native:
        values = native.normalized(pixels).reshape(3, 3, 16, 16)
    exact = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(values, exact.transpose(0, 3, 1, 2), rtol=1e-15)


@pytest.mark.parametrize("value", [float("nan"), 0.9])
def test_packages_that_differ_are_noticed(value: float) -> None:
    expected = torch.ones(10, 10)
    actual = expected.clone()
    assert packages.agree(actual, expected, has_neighbours=False)
    actual[0, :4] = value
    assert not packages.agree(actual, expected, has_neighbours=False)
    assert packages.agree(actual, expected, has_neighbours=True)  # other neighbours of some nodes
    actual[1, :4] = value
    assert not packages.agree(actual, expected, has_neighbours=True)
    assert not packages.agree(actual[:5], expected, has_neighbours=True)


def test_batches_outside_the_exported_range_are_refused(folder: Path, tmp_path: Path) -> None:
    with NativeModel(folder) as native:
        message = f"batch too large: 7 images, and the export takes at most {MAX_BATCH}. Use"
        with pytest.raises(InputError, match=message):
            native.run(np.zeros((7, 3, 16, 16)))
        with pytest.raises(InputError, match="no images: num_images is 0"):
            native.run(np.zeros((0, 3, 16, 16)))
    np.save(tmp_path / "x.npy", np.zeros((2, 16, 16, 3), np.uint8))
    infer(folder, tmp_path / "x.npy", "--stages", 2, ranks=2)  # as many as the export takes
    flags = ["--stages", 2, "--batch-size", 7]
    error = infer(folder, tmp_path / "x.npy", *flags, ranks=2, status=2).stderr
    assert "vigmpi_infer: error: rank 0: batch too large: 7 images" in error


def test_damaged_packages_are_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("1.pt2", "1-single.pt2"):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        with pytest.raises(InputError, match=f"changed file: .*/{name} is not the one exported"):
            NativeModel(copy)
        NativeModel(copy, 0, 1)  # another layer
        (copy / name).unlink()
        with pytest.raises(InputError, match=f"cannot read file: .*/{name} "):
            NativeModel(copy)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('form = "packages"', 'form = "c"', "export of another form: c in"),
        ('dtype = "float64"', 'dtype = "float16"', "damaged manifest: .*dtype"),
        ("output = [5]", "output = [6]", "packages do not fit the manifest"),
        ("input = [3, 16, 16]", "input = [3, 16, 15]", "shapes of layers"),
        ("output = [5]", "output = [0]", "output of layer 3"),
        ("threads = 1", "threads = x", "damaged manifest: .*threads"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    folder: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    copy = tmp_path / "a"
    shutil.copytree(folder, copy)
    path = copy / manifest.NAME
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message), NativeModel(copy) as native:
        native.run(np.zeros((2, 3, 16, 16)))


def test_a_full_temporary_folder_is_one_line(folder: Path, tmp_path: Path) -> None:
    """The loader unpacks packages into the temporary folder."""
    np.save(tmp_path / "x.npy", np.zeros((2, 16, 16, 3), np.uint8))
    (tmp_path / "small").mkdir()
    small = tmp_path / "small"
    program = f"{folder / PROGRAM} {folder} {tmp_path / 'x.npy'}"
    script = f"mount -t tmpfs -o size=64k none {small} && TMPDIR={small} {program}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr or "permitted" in done.stderr:
        pytest.skip("needs the right to mount file systems")
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if "vigmpi_infer" in line]
    assert "cannot load package: " in line


def test_a_compiler_that_fails_or_is_missing_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))  # nothing is known
    broken = tmp_path / "broken"
    broken.write_text(
        '#!/bin/sh\ncase "$*" in --version|-v) exec g++ "$@";; esac\n'
        'echo "x.cpp: error: it broke" >&2; exit 1\n'
    )
    broken.chmod(0o755)
    layers = {"block 0": torch_form.exportable_layers(study((8, 6), 1), torch.float32)[0]}
    for compiler, message in (
        ("nowhere", "no compiler for C\\+\\+: nowhere cannot be used. Install"),
        (str(broken), "the compiler failed: block 0 .*it broke.* Set CXX"),
    ):
        monkeypatch.setenv("CXX", compiler)
        with pytest.raises(InputError, match=message):
            list(packages.compile_layers(layers, target(), tmp_path, 1))
