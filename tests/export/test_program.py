"""The MPI program: its results in every layout, its input and its errors."""

import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.export.exports import CLASSES, exported, images, random_generator, study
from tests.launching import finish, mpiexec, start, wait_until
from vigmpi.export import manifest
from vigmpi.export.compiler import PROGRAM
from vigmpi.export.native_library import NativeModel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export of a model of four blocks for images of 8x6 pixels."""
    return exported(study((8, 6), 4), built, tmp_path_factory.mktemp("export") / "a")


def infer(
    folder: Path, *arguments: object, ranks: int = 1, status: int = 0
) -> subprocess.CompletedProcess[str]:
    command = [*mpiexec(ranks), str(folder / PROGRAM), *map(str, arguments)]
    done = finish(start(command, environ={"PATH": os.environ["PATH"]}), timeout=60)
    assert done.returncode == status, done.stderr
    return done


@pytest.mark.parametrize("number", [0, 1, 5, 41])
@pytest.mark.parametrize(
    ("stages", "replicas", "flags"),
    [
        (1, 1, []),
        (2, 1, []),
        (4, 1, []),
        (1, 3, []),
        (2, 2, []),
        (2, 1, ["--split", "3,1"]),
        (3, 2, ["--split", "1,2,1"]),
    ],
)
def test_logits_are_bitwise_identical_in_every_layout(
    folder: Path, tmp_path: Path, number: int, stages: int, replicas: int, flags: list[str]
) -> None:
    x = images(study((8, 6), 4), number)
    source, output = tmp_path / "x.npy", tmp_path / "y.npy"
    np.save(source, x)
    options = ["--stages", stages, "--batch-size", 4, "--output", output, *flags]
    done = infer(folder, folder, source, *options, ranks=stages * replicas)
    logits = np.load(output)
    assert logits.shape == (number, len(CLASSES))
    if number:
        with NativeModel(folder) as native:
            np.testing.assert_array_equal(logits, native.run(x))
    assert f"{number} images in " in done.stderr
    assert f"on {stages} stages x {replicas} replicas" in done.stderr


def test_bytes_are_normalized_and_a_table_names_the_classes(folder: Path, tmp_path: Path) -> None:
    pixels = random_generator().integers(256, size=(9, 8, 6, 3), dtype=np.uint8)
    np.save(tmp_path / "x.npy", pixels)
    lines = infer(folder, folder, tmp_path / "x.npy", "--stages", 2, ranks=2).stdout.splitlines()
    with NativeModel(folder) as native:
        logits = native.run(native.normalized(pixels)).astype(float)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = [
        f"{number}  {CLASSES[row.argmax()]}  {row.max():.1%}" for number, row in enumerate(shares)
    ]
    assert lines == expected


@pytest.mark.parametrize(("stages", "replicas"), [(1, 1), (2, 1), (2, 2)])
def test_requests_are_answered_after_they_arrive(
    folder: Path, tmp_path: Path, stages: int, replicas: int
) -> None:
    x, arrivals = images(study((8, 6), 4), 7), np.arange(20) * 0.005
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "a.npy", arrivals)
    flags = ["--stages", stages, "--arrivals", tmp_path / "a.npy", "--batch-wait-ms", 12.5]
    files = ["--times", tmp_path / "t.npy", "--output", tmp_path / "y.npy", "--batch-size", 4]
    done = infer(folder, folder, tmp_path / "x.npy", *flags, *files, ranks=stages * replicas)
    assert done.stdout == ""
    times = np.load(tmp_path / "t.npy")
    assert times.shape == (20, 1 + 2 * stages)
    np.testing.assert_array_equal(times[:, 0], arrivals)
    assert (np.diff(times, axis=1) > -1e-3).all()  # clocks of ranks differ by less
    for replica in range(replicas):
        own = times[replica::replicas]
        sizes = np.unique(own[:, 1], return_counts=True)[1]
        assert 1 < sizes.max() <= 4  # those that wait are grouped
    with NativeModel(folder) as native:
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), native.run(x[np.arange(20) % 7]))


def test_a_closed_loop_keeps_its_number_in_flight(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", images(study((8, 6), 4), 7))
    flags = ["--stages", 3, "--in-flight", 5, "--requests", 203, "--times", tmp_path / "t.npy"]
    infer(folder, folder, tmp_path / "x.npy", *flags, "--batch-size", 2, ranks=3)
    times = np.load(tmp_path / "t.npy")
    assert len(times) == 203
    assert (times[:5, 0] == 0).all()
    np.testing.assert_array_equal(times[5:, 0], times[:-5, -1])  # one arrives for each answer


def test_batches_wait_at_the_source(folder: Path, tmp_path: Path) -> None:
    """Two messages are under way on a link, so that the others wait where they can be seen."""
    np.save(tmp_path / "x.npy", images(study((8, 6), 4), 64))
    flags = ["--stages", 2, "--split", "1,3", "--batch-size", 1, "--times", tmp_path / "t.npy"]
    infer(folder, folder, tmp_path / "x.npy", *flags, ranks=2)
    times = np.load(tmp_path / "t.npy")
    assert (times[4:, 1] >= times[:-4, 4] - 1e-3).all()


@pytest.mark.parametrize(
    ("arguments", "ranks", "message"),
    [
        (["{export}", "{images}", "--arrivals", "{images}"], 2, "rank 0: arrivals do not fit: "),
        (
            ["{export}", "{images}", "--times", "a", "--output", "./b/../a"],
            1,
            "two uses of one file: a. Use another",
        ),
        (
            ["{export}", "{images}", "--output", "{images}"],
            2,
            "two uses of one file: ",
        ),
        (["{export}", "{images}", "--requests", "3"], 1, "option without another: --requests with"),
        (
            ["{export}", "{images}", "--arrivals", "a", "--in-flight", "2"],
            1,
            "two kinds of load: --arrivals and --in-flight. Use one",
        ),
        (["{export}", "{images}", "--batch-wait-ms", "-1"], 1, "invalid value: --batch-wait-ms -1"),
        (["{export}"], 2, "an export and a file of images are needed: 1 paths were given. See"),
        (
            ["{export}", "{images}", "--stages", "3"],
            2,
            "wrong number of ranks: 2 for --stages 3. U",
        ),
        (
            ["{export}", "{images}", "--stages", "5"],
            5,
            "rank 0: too many stages: 5 for 4 blocks. Use",
        ),
        (
            ["{export}", "{images}", "--split", "2,1", "--stages", "2"],
            2,
            "rank 0: split does not fit: 2 s",
        ),
        (["{export}", "{images}", "--split", "2,x"], 1, "invalid value: --split x. Use a number"),
        (["{export}", "{images}", "--batch-size", "0"], 1, "invalid value: --batch-size 0. Use a "),
        (["{export}", "{images}", "--batch-siez", "2"], 1, "unknown option: --batch-siez. See"),
        (
            ["{export}", "{images}", "--stages", "2,2"],
            1,
            "invalid value: --stages 2,2. Use a number",
        ),
        (["{export}", "{images}", "--stages"], 1, "value missing: --stages. See"),
    ],
)
def test_wrong_usage_is_one_line(
    folder: Path, tmp_path: Path, arguments: list[str], ranks: int, message: str
) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 6, 3), np.uint8))
    names = {"export": folder, "images": tmp_path / "x.npy"}
    filled = [argument.format(**names) for argument in arguments]
    error = infer(folder, *filled, ranks=ranks, status=2).stderr
    [line] = [line for line in error.splitlines() if "vigmpi_infer" in line]
    assert line.startswith(f"vigmpi_infer: error: {message}")


def refusal(folder: Path, *arguments: object, ranks: int = 1) -> str:
    """Return the line with which a run ends that finds wrong input."""
    error = infer(folder, *arguments, ranks=ranks, status=2).stderr
    [line] = [line for line in error.splitlines() if "vigmpi_infer" in line]
    return line


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((1, 8, 6, 4), np.uint8),
            "holds images of 8x6x4 pixels, the model needs 8x6x3. Use",
        ),
        (
            np.zeros((1, 6, 8, 3), np.uint8),
            "holds images of 6x8x3 pixels, the model needs 8x6x3. Use",
        ),
        (np.zeros((1, 3, 8, 7), np.float32), "images of 3x8x7 values, the model needs 3x8x6. Use"),
        (np.zeros((), np.uint8), "images of  pixels, the model needs 8x6x3. Use"),
        (np.zeros((1, 3, 8, 6), np.float64), "values of 8 bytes, the model needs 4. Use another"),
        (np.zeros((1, 8, 6, 3), np.int32), "(its values are '<i4'). Use a .npy file"),
        (np.zeros((2, 8, 6, 3), np.uint8, order="F"), "(it is in Fortran order). Use"),
        (None, "(No such file or directory). Use"),
        (b"\x93NUMPY\x01\x00", "(it has not NumPy's format). Use"),
        (b"\x93NUMPY\x01\x00\xff\xff{}", "(it is too short). Use"),
        (b"\x93NUMPY\x01\x00\x20\x00{'descr': '|u1', 'shape': (9), }x", "no fortran_order). Use"),
    ],
)
def test_unusable_images_are_one_line(
    folder: Path, tmp_path: Path, array: np.ndarray | bytes | None, message: str
) -> None:
    path = tmp_path / "x.npy"
    if isinstance(array, bytes):
        path.write_bytes(array)
    elif array is not None:
        np.save(path, array)
    assert message in refusal(folder, folder, path, "--stages", 2, ranks=2)


def test_a_truncated_file_of_images_is_refused(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((4, 8, 6, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:-1])
    assert "(it is too short)" in refusal(folder, folder, path)


def test_a_changed_layer_is_reported_by_the_rank_that_needs_it(built: Path, tmp_path: Path) -> None:
    folder = exported(study((8, 6), 2), built, tmp_path / "a")
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 6, 3), np.uint8))
    (folder / "layer-1.weights").write_bytes(b"other")
    line = refusal(folder, folder, tmp_path / "x.npy", "--stages", 2, ranks=2)
    assert line.startswith("vigmpi_infer: error: rank 1: ")
    assert "layer-1.weights" in line
    (folder / manifest.NAME).unlink()
    line = refusal(folder, folder, tmp_path / "x.npy", "--stages", 2, ranks=2)
    assert line.startswith(
        f"vigmpi_infer: error: rank 0: cannot read file: {folder}/manifest.toml ("
    )


def test_an_output_that_cannot_be_written_is_one_line(folder: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((1, 8, 6, 3), np.uint8))
    output = tmp_path / "no/y.npy"
    line = refusal(folder, folder, tmp_path / "x.npy", "--output", output)
    assert f"cannot write array: {output} (No such file or directory). Use" in line


def test_images_that_differ_between_hosts_are_refused(folder: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        np.save(tmp_path / str(number) / "x.npy", np.zeros((number, 8, 6, 3), np.uint8))
    program = [str(folder / PROGRAM), str(folder), "x.npy"]
    second = ["sh", "-c", f'cd {tmp_path}/2; exec "$@"', "sh", *program]
    process = start([*mpiexec(1), *program, ":", "-n", "1", *second], cwd=tmp_path / "1")
    done = finish(process, timeout=60)
    assert done.returncode == 2
    assert "error: rank 1: images differ between ranks: x.npy. Use" in done.stderr


def test_a_batch_whose_messages_would_be_too_large_is_refused(built: Path, tmp_path: Path) -> None:
    folder = exported(study((500, 500), 2), built, tmp_path / "a")
    np.save(tmp_path / "x.npy", np.zeros((1, 500, 500, 3), np.uint8))
    flags = ["--stages", 2, "--batch-size", 4096]
    line = refusal(folder, folder, tmp_path / "x.npy", *flags, ranks=2)
    assert "batch too large: --batch-size 4096. Use a smaller" in line


def test_help_is_printed_once(folder: Path) -> None:
    assert infer(folder, "x", "--help", ranks=2).stdout.count("usage: ") == 1


@pytest.mark.parametrize("stage", [0, 1])
def test_a_killed_stage_ends_the_program(built: Path, tmp_path: Path, stage: int) -> None:
    folder = exported(study((32, 32), 4), built, tmp_path / "a")
    shape = (200_000, 32, 32, 3)  # a sparse file
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, shape).flush()
    arguments = [str(folder), str(tmp_path / "x.npy"), "--stages", "2"]
    script = f'echo $$ > {tmp_path}/$PMI_RANK; exec "$@"'
    command = [*mpiexec(2), "sh", "-c", script, "sh", str(folder / PROGRAM), *arguments]
    process = start(command)
    pid = tmp_path / str(stage)
    wait_until(lambda: pid.exists() and b"libvigmpi" in maps(int(pid.read_text() or 1)))
    os.kill(int(pid.read_text()), signal.SIGKILL)
    done = finish(process, timeout=60)
    assert done.returncode != 0


def maps(pid: int) -> bytes:
    return Path(f"/proc/{pid}/maps").read_bytes()
