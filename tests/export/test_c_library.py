"""The C library of an export: results, files, and its use from Fortran and from several threads."""

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.export.exports import (
    CLASSES,
    MEAN,
    NATIVE,
    STD,
    exported,
    images,
    need_compilers,
    random_generator,
    study,
)
from vigmpi.errors import InputError
from vigmpi.export import manifest
from vigmpi.export.compiler import LIBRARY, build_c, processor_instructions
from vigmpi.export.native_library import NativeModel
from vigmpi.kernels import fused_gelu
from vigmpi.models.config import ModelConfig
from vigmpi.models.model import Model, make_model


def reference(model: Model, x: np.ndarray) -> np.ndarray:
    """Return the logits of the reference backend in float64."""
    _, height, width = model.layers[0].inputs.shape
    blocks = sum(layer.is_block for layer in model.layers)
    head = model.layer_modules[-1]
    config = ModelConfig(
        model.layers[-1].outputs.shape[0],
        (height, width),
        blocks=blocks,
        readout="mean" if getattr(head, "takes_mean", True) else "sum",
    )
    other = make_model("study", config, backend="reference").double().eval()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits: np.ndarray = other(torch.from_numpy(x).double()).numpy()
    return logits


@pytest.mark.parametrize(
    ("size", "blocks", "readout", "number"),
    [
        ((32, 32), 8, "mean", 10),
        ((32, 32), 2, "sum", 1),
        ((7, 5), 2, "mean", 3),
        ((1, 9), 1, "mean", 2),
        ((9, 1), 1, "mean", 2),
        ((1, 1), 1, "sum", 1),
        ((20, 40), 1, "mean", 2),
    ],
)
def test_logits_equal_those_of_the_reference(
    built: Path, tmp_path: Path, size: tuple[int, int], blocks: int, readout: str, number: int
) -> None:
    model = study(size, blocks, readout)
    x = images(model, number)
    with NativeModel(exported(model, built, tmp_path / "a")) as native:
        logits = native.run(x)
    expected = reference(model, x)
    assert np.abs(logits - expected).max() <= 5e-6 * np.abs(expected).max()


def test_outputs_are_bitwise_identical_for_any_split(built: Path, tmp_path: Path) -> None:
    model = study(blocks=3)
    x = images(model, 4)
    folder = exported(model, built, tmp_path / "a")
    with NativeModel(folder) as whole:
        expected = whole.run(x)
        one_by_one = np.concatenate([whole.run(image[None]) for image in x])
        assert whole.num_layers == 4
    np.testing.assert_array_equal(one_by_one, expected)
    for cuts in ([1], [2], [3], [1, 2, 3]):
        features = x
        for first, last in zip([0, *cuts], [*cuts, 4], strict=True):
            with NativeModel(folder, first, last - first) as stage:
                features = stage.run(features)
        np.testing.assert_array_equal(features, expected)


def test_nan_stays_in_its_image_and_infinity_is_not_hidden(built: Path, tmp_path: Path) -> None:
    model = study(blocks=1)
    x = images(model, 3)
    with NativeModel(exported(model, built, tmp_path / "a")) as native:
        expected = native.run(x)
        x[1, 0, 3, 3] = np.nan
        x[2, 0, 3, 3] = np.inf
        logits = native.run(x)
    np.testing.assert_array_equal(logits[0], expected[0])
    assert np.isnan(logits[1]).all()
    assert not np.isfinite(logits[2]).any()


def test_pixels_are_normalized_and_classes_named(built: Path, tmp_path: Path) -> None:
    model = study((4, 6), 1)
    pixels = random_generator().integers(256, size=(2, 4, 6, 3), dtype=np.uint8)
    with NativeModel(exported(model, built, tmp_path / "a")) as native:
        values = native.normalized(pixels).reshape(2, 3, 4, 6)
        assert [native.class_name(i) for i in range(len(CLASSES))] == list(CLASSES)
    planes = pixels.transpose(0, 3, 1, 2) / 255
    expected = (planes - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-7)


def test_several_models_run_in_threads_of_one_process(built: Path, tmp_path: Path) -> None:
    models = [study((8, 8), blocks) for blocks in (1, 2)]
    folders = [exported(m, built, tmp_path / str(i)) for i, m in enumerate(models)]
    inputs = [images(model, 50) for model in models]
    expected = [NativeModel(f).run(x) for f, x in zip(folders, inputs, strict=True)]
    equal: list[bool] = []

    def compare(i: int) -> None:
        with NativeModel(folders[i % 2]) as native:
            outputs = [native.run(inputs[i % 2]) for _ in range(10)]
        equal.append(all(np.array_equal(output, expected[i % 2]) for output in outputs))

    threads = [threading.Thread(target=compare, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 4


def change(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_bytes(edit(path.read_bytes()))

    return apply


def replace(old: str, new: str) -> Callable[[Path], None]:
    return change(manifest.NAME, lambda text: text.replace(old.encode(), new.encode(), 1))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, r"cannot read file: .*/manifest.toml \(No such file"),
    "no file": (lambda f: (f / "layer-1.weights").unlink(), r"cannot read file: .*layer-1.weights"),
    "bit": (change("layer-0.weights", lambda c: bytes([c[0] ^ 1]) + c[1:]), "changed file: "),
    "short": (change("layer-0.weights", lambda c: c[:-4]), "changed file: .*layer-0.weights"),
    "long": (change("layer-0.weights", lambda c: c + c), "changed file: .*layer-0.weights"),
    "format": (replace("vigmpi export 1", "vigmpi export 9"), "format: vigmpi export 9 of "),
    "form": (replace('form = "c"', 'form = "d"'), "export of another form: d in "),
    "zero byte": (change(manifest.NAME, lambda c: c[:99] + b"\0" + c[99:]), r"\(a zero byte\)"),
    "no key": (replace("image_size", "image_sise"), r"damaged manifest: .*\(image_size\)"),
    "other size": (replace("image_size = [8, 8]", "image_size = [8]"), "damaged manifest"),
    "no number": (replace("num_classes = 7", "num_classes = 7.5"), r"damaged .*num_classes"),
    "fewer names": (replace('["cat", ', "["), r"damaged manifest: .*\(classes\)"),
    "escape": (replace("back\\\\slash", "back\\slash"), r"damaged manifest: .*\(classes\)"),
    "no sizes": (replace("hidden = [256, 512]", "hidden = []"), "weights do not fit: layer 0"),
    "negative": (replace("hidden = [256, 512]", "hidden = [-8, 512]"), "do not fit: layer 0"),
    "not a number": (replace("hidden = [256, 512]", "hidden = [nan, 512]"), "do not fit: layer 0"),
    "huge": (replace("hidden = [256, 512]", "hidden = [1e30, 512]"), "do not fit: layer 0 of"),
    "odd": (replace("hidden = [256, 512]", "hidden = [257, 511]"), "do not fit: layer 0 of"),
    "no layers": (change(manifest.NAME, lambda c: c[: c.index(b"[[")]), r"\(no layers\)"),
    "head first": (
        change(manifest.NAME, lambda c: b"[[".join([c.split(b"[[")[i] for i in (0, 3, 1, 2)])),
        "layers behind the head|weights do not fit",
    ),
    "hidden": (replace("hidden = [256, 512]", "hidden = [256, 504]"), "do not fit: layer 0 of"),
    "path": (replace('"layer-0.weights"', '"../layer-0.weights"'), r"\(file of layer 0\)"),
    "digest": (replace('sha256 = "', 'sha256 = "0'), "changed file: .*layer-0.weights"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_export_is_refused_in_one_line(built: Path, tmp_path: Path, case: str) -> None:
    damage, message = DAMAGE[case]
    folder = exported(study((8, 8), 2), built, tmp_path / "a")
    damage(folder)
    native = ctypes.CDLL(str(built / LIBRARY))
    native.vigmpi_last_error.restype = ctypes.c_char_p
    model = ctypes.c_void_p(1)
    status = native.vigmpi_open(str(folder).encode(), 0, 0, ctypes.byref(model))
    error = native.vigmpi_last_error().decode()
    assert status == 1
    assert model.value is None
    assert re.search(message, error), error
    assert "\n" not in error
    assert error.endswith(".")


FUZZER = """
#include "vigmpi_infer.h"
#include <stdlib.h>

int main(int argc, char **argv)
{
    int refused = 0;
    for (int i = 1; i < argc; i++) {
        vigmpi_model *model;
        if (vigmpi_open(argv[i], 0, 0, &model)) {
            refused++;
            continue;
        }
        float *input = calloc(vigmpi_input_values(model), sizeof *input);
        float *output = calloc(vigmpi_output_values(model), sizeof *output);
        vigmpi_run(model, input, 1, output);
        free(input);
        free(output);
        vigmpi_close(model);
    }
    return refused > argc / 2 && refused < argc - 1 ? 0 : 1;
}
"""


SPECIAL = np.frombuffer(b'"\\[],= \nu09', np.uint8)


def test_random_damage_causes_no_memory_error(built: Path, tmp_path: Path) -> None:
    """All sources are compiled with the compiler's checks of addresses and undefined behaviour."""
    (tmp_path / "fuzzer.c").write_text(FUZZER)
    sources = [str(path) for path in (tmp_path / "fuzzer.c", *sorted(NATIVE.glob("*.c")))]
    checks = [
        "-g",
        "-fsanitize=address,undefined,float-cast-overflow",
        "-fno-sanitize-recover=undefined",
    ]
    command = ["cc", "-std=gnu11", *checks, f"-I{NATIVE}", *sources, "-lm", "-o", "fuzzer"]
    subprocess.run(command, check=True, cwd=tmp_path)
    folder = exported(study((8, 8), 1), built, tmp_path / "a")
    text, random = (folder / manifest.NAME).read_bytes(), random_generator()
    for number in range(100):
        damaged = bytearray(text)
        for _ in range(random.integers(1, 5)):
            start, size = int(random.integers(len(damaged))), int(random.integers(4))
            damaged[start : start + size] = random.choice(SPECIAL, random.integers(4)).tobytes()
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        (copy / manifest.NAME).write_bytes(damaged)
    copies = [str(folder), *(str(tmp_path / str(number)) for number in range(100))]
    done = subprocess.run([str(tmp_path / "fuzzer"), *copies], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


@pytest.mark.parametrize(("first", "number"), [(-1, 1), (3, 1), (0, 4), (0, -1), (2**31 - 1, 2)])
def test_layers_that_do_not_exist_are_refused(
    built: Path, tmp_path: Path, first: int, number: int
) -> None:
    folder = exported(study((8, 8), 2), built, tmp_path / "a")
    with pytest.raises(InputError, match=r"no such layers: .* Use those of 0 to 2\."):
        NativeModel(folder, first, number)


def test_no_images_are_refused(built: Path, tmp_path: Path) -> None:
    folder = exported(study((8, 8), 1), built, tmp_path / "a")
    with NativeModel(folder) as native, pytest.raises(InputError, match="num_images is 0"):
        native.run(np.empty((0, native.inputs), np.float32))


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 100_000])
def test_digests_are_those_of_sha_256(built: Path, size: int) -> None:
    content, digest = os.urandom(size), ctypes.create_string_buffer(65)
    native = ctypes.CDLL(str(built / LIBRARY))
    native.vigmpi_sha256(content, ctypes.c_size_t(size), digest)
    assert digest.value.decode() == hashlib.sha256(content).hexdigest()


def test_the_coefficients_are_those_of_the_kernels() -> None:
    text = (NATIVE / "gelu.h").read_text()
    tails = re.search(r"VIGMPI_TAILS\[\] = \{(.*?)\};", text, re.DOTALL)
    scale = re.search(r"VIGMPI_SCALE ([\d.]+)", text)
    assert tails
    assert scale
    numbers = [
        float(number.strip().rstrip("f")) for number in tails[1].split(",") if number.strip()
    ]
    assert [*numbers, 1.0] == list(fused_gelu.TAILS)
    assert float(scale[1]) == fused_gelu.SCALE


@pytest.mark.usefixtures("built")
def test_another_processor_is_refused(tmp_path: Path) -> None:
    """The check of the processor is compiled for instructions that only others have."""
    source = tmp_path / "main.c"
    source.write_text(
        '#include "processor.h"\n#include "vigmpi_infer.h"\n#include <stdio.h>\n'
        "int main(void) { int s = vigmpi_check_processor(); puts(vigmpi_last_error()); return s; }"
    )
    program = tmp_path / "main"
    if platform.machine() != "x86_64":
        pytest.skip("the instructions are those of x86")
    flags = ['-DVIGMPI_INSTRUCTIONS=X("xop")', f"-I{NATIVE}", "-std=gnu11"]  # of AMD, 2011 to 2016
    files = [str(source), str(NATIVE / "processor.c"), str(NATIVE / "error.c")]
    subprocess.run(["cc", *flags, *files, "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "processor without instructions: " in done.stdout


@pytest.mark.parametrize(
    ("compiler", "message"),
    [
        ("nocc", r"cannot run the compiler: nocc \(No such file"),
        ("false", "compiler failed: false"),
    ],
)
def test_the_compiler_must_exist_and_succeed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiler: str, message: str
) -> None:
    monkeypatch.setenv("CC", compiler)
    with pytest.raises(InputError, match=message):
        build_c(tmp_path, processor_instructions())


def test_models_are_opened_in_several_threads(built: Path, tmp_path: Path) -> None:
    folder = exported(study((8, 8), 2), built, tmp_path / "a")
    failures: list[BaseException] = []

    def open_often() -> None:
        try:
            for _ in range(200):
                with NativeModel(folder):
                    pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=open_often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_the_fortran_example_classifies_images(built: Path, tmp_path: Path) -> None:
    need_compilers("gfortran")
    model = study((8, 8), 2)
    folder = exported(model, built, tmp_path / "a")
    x = images(model, 20)
    x.tofile(tmp_path / "images.raw")
    program = str(tmp_path / "example")
    link = [f"-L{folder}", "-lvigmpi_infer", f"-Wl,-rpath,{folder}"]
    subprocess.run(
        ["gfortran", "-Wall", "-Werror", str(NATIVE / "example.f90"), "-o", program, *link],
        check=True,
        cwd=tmp_path,
    )
    command = [program, str(folder), str(tmp_path / "images.raw"), "20"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()] == reference(model, x).argmax(1).tolist()
    (folder / "layer-2.weights").unlink()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot read file: " in done.stdout
