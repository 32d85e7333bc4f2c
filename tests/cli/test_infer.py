"""`vigmpi infer` and `vigmpi load-test`."""

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from tests.launching import finish, start, vigmpi
from tests.weights import copy_with_a_damaged_newer_one
from vigmpi.checkpoint.search import folder_of

SIZE = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with 23 images and the checkpoint of a short run of a ViG with averages."""
    folder = tmp_path_factory.mktemp("infer")
    seed = int(np.random.default_rng().integers(2**31))
    print("seed", seed)
    pixels = np.random.default_rng(seed).integers(256, size=(23, SIZE, SIZE, 3), dtype=np.uint8)
    for phase, count in (("train", 12), ("test", 23)):
        for i in range(count):
            path = folder / "data" / phase / ("even", "odd")[i % 2] / f"{i:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i]).save(path)
    prepared = ["--output", folder / "data.h5", "--npy", folder / "x.npy"]
    run("prepare", folder / "data", "--image-size", SIZE, *prepared)
    np.testing.assert_array_equal(np.load(folder / "x.npy"), [*pixels[::2], *pixels[1::2]])
    flags: list[object] = [
        "--model",
        "vig_cifar",
        "--dataset",
        "folder",
        "--data-dir",
        folder / "data.h5",
    ]
    flags += ["--normalize", "--ema", "0.5", "--epochs", "1", "--batch-size", "6"]
    run(*flags, "--record", folder / "a.h5")
    return folder


def run(*arguments: object, ranks: int = 1, status: int = 0) -> subprocess.CompletedProcess[str]:
    flags = list(map(str, arguments))
    process = start(vigmpi(*flags, ranks=ranks if ranks > 1 else None))
    done = finish(process, timeout=120)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def infer(folder: Path, *arguments: object, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    source = ["--checkpoint", folder_of(folder / "a.h5"), "--images", folder / "x.npy"]
    return run("infer", *source, "--threads", 1, *arguments, ranks=ranks)


@pytest.fixture(scope="module")
def logits(folder: Path) -> np.ndarray:
    infer(folder, "--batch-size", 4, "--output", folder / "y.npy")
    return np.load(folder / "y.npy")


def test_classes_are_those_of_predict(folder: Path) -> None:
    paths = []
    for number, image in enumerate(np.load(folder / "x.npy")):
        paths.append(folder / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    source = ["--checkpoint", folder_of(folder / "a.h5")]
    answers = json.loads(run("predict", *source, "--format", "json", *paths).stdout)
    lines = infer(folder, "--batch-size", 5).stdout.splitlines()
    for number, (line, answer) in enumerate(zip(lines, answers, strict=True)):
        name, share = max(answer["classes"].items(), key=lambda pair: pair[1])
        first, printed, percent = line.split("  ")
        assert (int(first), printed) == (number, name)
        assert abs(float(percent.rstrip("%")) / 100 - share) < 2e-3


@pytest.mark.parametrize(
    ("stages", "replicas", "flags"),
    [
        (2, 1, []),
        (1, 2, []),
        (2, 2, ["--batch-wait-ms", "3"]),
        (3, 1, ["--split-after", "residual 0.0,block 1"]),
        (2, 1, ["--split", "measured", "--in-flight", "5"]),
    ],
)
def test_logits_do_not_depend_on_the_layout(
    folder: Path, logits: np.ndarray, tmp_path: Path, stages: int, replicas: int, flags: list[str]
) -> None:
    layout = ["--stages", stages, "--replicas", replicas, "--batch-size", 4]
    output = ["--output", tmp_path / "y.npy", "--times", tmp_path / "t.npy"]
    done = infer(folder, *layout, *flags, *output, ranks=stages * replicas)
    if replicas > 1 or "--in-flight" in flags:  # other batches
        np.testing.assert_allclose(np.load(tmp_path / "y.npy"), logits, rtol=1e-5, atol=1e-6)
    else:
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), logits)
    assert "23 images in " in done.stderr
    assert done.stdout == ""
    times = np.load(tmp_path / "t.npy")
    assert times.shape == (23, 1 + 2 * stages)
    assert (np.diff(times[:, 1:], axis=1) > -1e-3).all()  # clocks of ranks differ by less
    assert (times[:, 1] >= times[:, 0]).all()


def test_bfloat16_features_travel_between_the_stages(folder: Path, tmp_path: Path) -> None:
    outputs = []
    for stages in (1, 2):
        flags = ["--precision", "bf16", "--stages", stages, "--output", tmp_path / f"{stages}.npy"]
        infer(folder, *flags, ranks=stages)
        outputs.append(np.load(tmp_path / f"{stages}.npy"))
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("replicas", [1, 2])
def test_requests_are_answered_after_they_arrive(
    folder: Path, tmp_path: Path, replicas: int
) -> None:
    arrivals = np.arange(30) * 0.02
    np.save(tmp_path / "a.npy", arrivals)
    flags = ["--arrivals", tmp_path / "a.npy", "--times", tmp_path / "t.npy", "--stages", 2]
    flags += ["--replicas", replicas]
    infer(folder, *flags, "--output", tmp_path / "y.npy", ranks=2 * replicas)
    times = np.load(tmp_path / "t.npy")
    np.testing.assert_array_equal(times[:, 0], arrivals)
    assert (times[:, 1] >= arrivals).all()
    logits = np.load(tmp_path / "y.npy")
    assert len(logits) == 30  # the images in turn
    np.testing.assert_allclose(logits[23:], logits[:7], rtol=1e-4, atol=1e-4)


def test_a_closed_loop_keeps_its_number_in_flight(folder: Path, tmp_path: Path) -> None:
    flags = ["--in-flight", 3, "--requests", 40, "--batch-size", 2, "--stages", 2]
    infer(folder, *flags, "--times", tmp_path / "t.npy", ranks=2)
    times = np.load(tmp_path / "t.npy")
    assert len(times) == 40
    np.testing.assert_array_equal(times[3:, 0], times[:-3, -1])  # one arrives for each answer


def test_more_replicas_than_requests(folder: Path, logits: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.load(folder / "x.npy")[:1])
    output = ["--images", tmp_path / "x.npy", "--output", tmp_path / "y.npy"]
    infer(folder, *output, "--replicas", 2, "--stages", 2, ranks=4)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), logits[:1], rtol=1e-5, atol=1e-6)


def test_no_image_is_no_request(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((0, SIZE, SIZE, 3), np.uint8))
    flags = ["--images", tmp_path / "x.npy", "--output", tmp_path / "y.npy", "--stages", 2]
    infer(folder, *flags, ranks=2)
    assert len(np.load(tmp_path / "y.npy")) == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--images", "{x}"], "images do not fit: {x} holds images of 9x8x3 (uint8), the model"),
        (["--images", "nowhere.npy"], "cannot read array: nowhere.npy (No such file or directory)"),
        (["--images", "{a}"], "cannot use array: {a} (its values are float64). Use"),
        (["--arrivals", "{a}", "--in-flight", "2"], "two kinds of load: --arrivals and --in-"),
        (["--arrivals", "{a}"], "arrivals do not fit: {a} (request 1 at 1). Use seconds from"),
        (["--arrivals", "{x}"], "arrivals do not fit: {x} (uint8, shape (1, 9, 8, 3)). Use float"),
        (["--images", "{b}"], "cannot use array: {b} (its values are >f4). Use"),
        (["--images", "{c}"], "cannot read array: {c} ("),
        (["--output", "{x}", "--times", "{x}"], "two uses of one file: {x}. Use another"),
        (["--output", "{d}"], "cannot write array: {d} (Is a directory). Use another"),
        (["--output", "{e}"], "cannot write array: {e} (File name too long). Use another"),
        (["--images", "{z}"], "cannot read array: {z} ("),
        (["--requests", "2"], "option without another: --requests without --in-flight. Use"),
        (["--output", "no/y.npy"], "cannot write array: no/y.npy (No such file or directory). Use"),
        (["--batch-size", "0"], "expected an integer of at least 1, not '0'"),
    ],
)
def test_unusable_input_is_one_line(
    folder: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    names = {"d": tmp_path, **{name: tmp_path / f"{name}.npy" for name in "xabc"}}
    np.save(names["x"], np.zeros((1, 9, 8, 3), np.uint8))
    np.save(names["a"], np.array([2.0, 1.0]))
    np.save(names["b"], np.zeros((1, 3, SIZE, SIZE), ">f4"))
    names["e"] = tmp_path / ("e" * 260)
    names["z"] = tmp_path / "z.npz"
    names["z"].write_bytes(b"PK\x03\x04" + bytes(60))
    names["c"].write_bytes(b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'\n\n")
    filled = [flag.format(**names) for flag in flags]
    source = ["--checkpoint", str(folder_of(folder / "a.h5")), "--images", str(folder / "x.npy")]
    done = run("infer", *source, "--stages", 2, *filled, ranks=2, status=2)
    [line] = [line for line in done.stderr.splitlines() if "vigmpi: error" in line]
    assert line.startswith(f"vigmpi: error: {message.format(**names)}") or message in line


def test_an_older_checkpoint_is_used_with_a_warning(
    folder: Path, logits: np.ndarray, tmp_path: Path
) -> None:
    [checkpoint] = folder_of(folder / "a.h5").iterdir()
    damaged = copy_with_a_damaged_newer_one(checkpoint, tmp_path)
    source = ["--checkpoint", tmp_path, "--images", folder / "x.npy"]
    done = run("infer", *source, "--threads", 1, "--output", tmp_path / "y.npy", "--batch-size", 4)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), logits)
    assert done.stderr.count(f"warning: checkpoint skipped: damaged checkpoint: {damaged} (") == 1


def test_images_are_needed(folder: Path) -> None:
    done = run("infer", "--checkpoint", folder_of(folder / "a.h5"), status=2)
    assert "no images: --images is missing. Use" in done.stderr
    done = run("infer", "--images", folder / "x.npy", status=2)
    assert "nothing to infer: no checkpoint was given. Use vigmpi infer --checkpoint PATH." in (
        done.stderr
    )


def test_a_load_test_records_all_times(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "load.h5"
    command = ["--checkpoint", folder_of(folder / "a.h5"), "--images", folder / "x.npy"]
    flags = ["--output", output, "--requests", 60, "--warm-up", 10, "--in-flight", "1,8"]
    flags += ["--rates", 50, "--seed", 3]
    program = [sys.executable, "-m", "vigmpi", "infer", *command, "--threads", 1]
    out = run("load-test", *flags, "--", *program).stdout.splitlines()
    assert [line.split("  ")[0] for line in out[1:4]] == ["1 in flight", "8 in flight", "50 per s"]
    with h5py.File(output) as file:
        assert "vigmpi infer" in file.attrs["command"]
        one, eight, open_loop = (file[name] for name in file)
        for group in (one, eight, open_loop):
            assert group["times"].shape == (60, 3)
            assert group["times"].attrs["unit"] == "s"
            assert 0 < group.attrs["p50"] <= group.attrs["p99"] <= group.attrs["maximum"]
        assert one.attrs["batch"] == 1
        assert open_loop.attrs["rate"] == 50
        arrivals = np.random.default_rng(3).exponential(1 / 50, 60).cumsum()
        np.testing.assert_array_equal(open_loop["times"][:, 0], arrivals)
        begun = one["times"][1:, 1]
        assert (begun >= one["times"][:-1, 2]).all()  # one after the other
    picture = tmp_path / "latency.png"
    drawing = [sys.executable, "-m", "analysis.latency", str(output), "--output", str(picture)]
    assert finish(start(drawing), timeout=60).returncode == 0
    with Image.open(picture) as drawn:
        assert drawn.width > 600
    done = finish(start([*drawing[:3], str(folder / "a.h5")]), timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no open loops: " in done.stderr
    refused = run("load-test", *flags, "--", *program, status=2)
    assert f"record exists: {output}. Use --overwrite" in refused.stderr


# A program that answers one request after the other, 10 ms each, without waiting for any.
SERVER = """
import sys, numpy as np
options = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if "--arrivals" in options:
    arrivals = np.load(options["--arrivals"])
else:
    arrivals = np.arange(int(options["--requests"])) * 0.01
free, rows = 0.0, []
for arrival in arrivals:
    begin = max(free, arrival)
    free = begin + 0.01
    rows.append((arrival, begin, free))
np.save(options["--times"], rows)
"""


@pytest.mark.parametrize(("bound_ms", "low", "high"), [(1e6, 95, 100), (1, 0, 0), (60, 40, 85)])
def test_the_largest_rate_within_a_bound_is_found(
    tmp_path: Path, bound_ms: float, low: float, high: float
) -> None:
    output = tmp_path / "load.h5"
    flags = ["--output", output, "--requests", 2000, "--in-flight", 1, "--bound-ms", bound_ms]
    out = run("load-test", *flags, "--", sys.executable, "-c", SERVER).stdout
    assert f"largest rate with a p99 of {bound_ms:g} ms: " in out
    with h5py.File(output) as file:
        assert len(file) == 7
        assert low <= file.attrs["goodput_per_s"] <= high
        within = [group for group in file.values() if group.attrs["p99"] <= bound_ms / 1000]
        rates = [group.attrs["rate"] for group in within if "rate" in group.attrs]
        assert file.attrs["goodput_per_s"] == max(rates, default=0)


def test_a_program_that_fails_is_reported_in_one_line(tmp_path: Path) -> None:
    def refusal(*command: str, status: int) -> str:
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.h5"
        done = run("load-test", "--output", output, "--", *command, status=status)
        [line] = done.stderr.splitlines()
        return line

    for output in (tmp_path, tmp_path / ("e" * 260), tmp_path / "no/a.h5"):
        done = run("load-test", "--output", output, "--", "true", status=2)
        assert done.stderr.startswith(f"vigmpi: error: cannot write the record: {output}. Use")
        assert done.stderr.count("\n") == 1
    assert "no times of 1000 requests: the program ignored" in refusal("true", status=2)
    assert "cannot start the program: nowhere (No such file" in refusal("nowhere", status=2)
    line = refusal(sys.executable, "-m", "vigmpi", "infer", status=2)
    assert "status 2 (vigmpi: error: " in line
    script = "import sys; print('it broke', file=sys.stderr); sys.exit(7)"
    assert "status 7 (it broke). Try" in refusal(sys.executable, "-c", script, status=1)
