import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.images import random_images, write_prepared
from vigmpi.datasets.prepared import PreparedFile
from vigmpi.errors import InputError
from vigmpi.phase import Phase

CLASSES, SIDES = 7, (6, 5)


def opened(path: Path) -> PreparedFile:
    dataset = PreparedFile(path, "folder")
    dataset.load(images=True, labels=True)
    return dataset


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "images.h5"


def test_images_labels_sizes_and_classes_equal_those_of_the_file(path: Path) -> None:
    images = random_images(SIDES, CLASSES)
    write_prepared(path, images, CLASSES)
    dataset = opened(path)
    assert (dataset.num_classes, dataset.image_size) == (CLASSES, SIDES)
    assert dataset.description == (
        f"folder ({path}, prepared from a test: 7 classes, 6x5 pixels; 12 training and 5 test "
        "images)"
    )
    for phase, (pixels, labels) in images.items():
        assert dataset.num_images[phase] == len(labels)
        order = np.random.default_rng(1).permutation(len(labels))
        expected = pixels[order] / np.float32(255)
        np.testing.assert_array_equal(dataset.images(phase, order), expected)
        np.testing.assert_array_equal(dataset.labels(phase, order), labels[order])
    mean, std = dataset.mean_and_std()
    assert mean.tolist() == [0.5, 0.25, 0.125]
    assert std.tolist() == [0.5] * 3


def test_threads_may_read_concurrently(path: Path) -> None:
    images = random_images(SIDES, CLASSES, {Phase.TRAIN: 300, Phase.TEST: 1})
    write_prepared(path, images, CLASSES)
    dataset, expected = opened(path), images[Phase.TRAIN][0] / np.float32(255)
    orders = [np.random.default_rng(seed).permutation(300) for seed in range(40)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda order: dataset.images(Phase.TRAIN, order), orders))
    for values, order in zip(results, orders, strict=True):
        np.testing.assert_array_equal(values, expected[order])


def test_a_micro_batch_reads_only_its_own_rows(path: Path) -> None:
    write_prepared(path, random_images((32, 32), CLASSES, dict.fromkeys(Phase, 2000)), CLASSES)
    dataset = opened(path)
    samples = np.random.default_rng(0).permutation(2000)[:100]

    def read_bytes() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = read_bytes()
    dataset.images(Phase.TRAIN, samples)
    assert 100 * 3072 <= read_bytes() - before < 110 * 3072


GROWTH = 2**26
READ_A_FILE = """
import sys
from pathlib import Path
import numpy as np
from vigmpi.datasets.prepared import PreparedFile
from vigmpi.host import peak_rss_bytes
from vigmpi.phase import Phase

before = peak_rss_bytes()
dataset = PreparedFile(Path(sys.argv[1]), "folder")
dataset.load(images=True, labels=True)
order = np.random.default_rng(0).permutation(dataset.num_images[Phase.TRAIN])
for first in range(0, 20_000, 500):
    dataset.images(Phase.TRAIN, order[first : first + 500])
    dataset.labels(Phase.TRAIN, order[first : first + 500])
print(peak_rss_bytes() - before)
"""


def test_memory_does_not_grow_with_the_file(path: Path) -> None:
    """Read a twentieth of a sparse file of 1.2 GB."""
    rows = dict.fromkeys([Phase.TRAIN], (((400000, 3, 32, 32), "u1"), ((400000,), "<i8")))
    write_prepared(path, rows | {Phase.TEST: random_images((32, 32), 1)[Phase.TEST]}, CLASSES)
    assert path.stat().st_size > 18 * GROWTH
    command = [sys.executable, "-c", READ_A_FILE, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert 0 < int(done.stdout) < GROWTH


def replaced(name: str, **arguments: object) -> Callable[[h5py.File], None]:
    def modify(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, **arguments)

    return modify


def soft_link(file: h5py.File) -> None:
    file.move("train/images", "train/elsewhere")
    file["train/images"] = h5py.SoftLink("/train/elsewhere")


def cyclic_link(file: h5py.File) -> None:
    del file["train"]
    file["train"] = h5py.SoftLink("/train")


def external_link(file: h5py.File) -> None:
    del file["test"]
    file["test"] = h5py.ExternalLink("other.h5", "/test")


def virtual(file: h5py.File) -> None:
    del file["train/images"]
    layout = h5py.VirtualLayout((12, 3, *SIDES), "u1")
    layout[:] = h5py.VirtualSource("/etc/passwd", "x", (12, 3, *SIDES))
    file.create_virtual_dataset("train/images", layout)


def without_attribute(file: h5py.File) -> None:
    del file.attrs["source"]


def variable_length_attribute(file: h5py.File) -> None:
    file.attrs["source"] = "x" * 1000


def invalid_mean(file: h5py.File) -> None:
    file.attrs["mean"] = np.array([0.5, np.nan, 0.5])


def two_lines(file: h5py.File) -> None:
    file.attrs["source"] = np.bytes_(b"a\nvigmpi: all is well")


SHAPE = (12, 3, *SIDES)
HOSTILE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "soft link": (soft_link, "train/images is a link"),
    "cyclic link": (cyclic_link, "train is a link|train/images is a link|has no train/images"),
    "external link": (external_link, "is a link|has no test/images"),
    "virtual": (virtual, "not contiguous"),
    "external data": (
        replaced("train/images", shape=SHAPE, dtype="u1", external=[("/etc/passwd", 0, 1080)]),
        "not contiguous within the file",
    ),
    "compressed": (
        replaced("train/images", shape=SHAPE, dtype="u1", compression="gzip"),
        "not contiguous",
    ),
    "4 TiB": (
        replaced("train/images", shape=(2**40, 3, *SIDES), dtype="u1", chunks=(1, 3, *SIDES)),
        "train/images is uint8",
    ),
    "never written": (replaced("train/images", shape=SHAPE, dtype="u1"), "does not fit"),
    "floats": (replaced("train/images", data=np.zeros(SHAPE, "f4")), "is float32"),
    "grey": (replaced("train/images", data=np.zeros((12, 1, *SIDES), "u1")), "differ in size"),
    "no images": (replaced("test/images", data=np.zeros((0, 3, *SIDES), "u1")), "test/images is"),
    "short labels": (replaced("test/labels", data=np.zeros(3, "<i8")), "as many labels"),
    "small labels": (replaced("test/labels", data=np.zeros(5, "u1")), "test/labels is uint8"),
    "large label": (replaced("test/labels", data=np.full(5, CLASSES)), "outside of its 7"),
    "negative label": (replaced("train/labels", data=np.full(12, -1)), "outside of its 7"),
    "no group": (replaced("train", data=np.zeros(3)), "has no train/images"),
    "no source": (without_attribute, "no attribute source"),
    "variable length": (variable_length_attribute, "attribute source is object"),
    "not a number": (invalid_mean, "attribute mean is"),
    "two lines": (two_lines, "not one line"),
    "no names": (lambda file: file.move("classes", "names"), "has no classes"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_reported_in_one_line(path: Path, case: str) -> None:
    modify, message = HOSTILE[case]
    write_prepared(path, random_images(SIDES, CLASSES), CLASSES, modify)
    with pytest.raises(InputError, match=message) as error:
        opened(path)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert ": " in str(error.value)
    assert str(error.value).endswith(
        f"vigmpi prepare SOURCE --output {path} --overwrite to write it again."
    )


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"PNG" * 1000])
def test_a_file_of_another_format_is_rejected(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"cannot read prepared file: .*vigmpi prepare .*\.$"):
        opened(path)


def test_a_file_that_is_truncated_during_the_run_is_reported(path: Path) -> None:
    write_prepared(path, random_images(SIDES, CLASSES), CLASSES)
    dataset = opened(path)
    with path.open("r+b") as file:
        file.truncate(100)
    with pytest.raises(InputError, match=r": .*became shorter .*\. .*\.$"):
        dataset.images(Phase.TRAIN, np.arange(12))


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("intact") / "images.h5"
    write_prepared(path, random_images((2, 2), CLASSES), CLASSES)
    return path.read_bytes()


@given(st.data())
@settings(
    max_examples=300, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_damaged_file_is_consistent_or_reported_in_one_line(
    intact: bytes, path: Path, data: st.DataObject
) -> None:
    """Flip bits and truncate a file that consists mostly of HDF5's metadata."""
    content = bytearray(intact)
    for bit in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), max_size=6)):
        content[bit // 8] ^= 1 << bit % 8
    truncate = data.draw(st.booleans())
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if truncate else content)
    message = ""
    try:
        dataset = opened(path)
    except InputError as error:
        message = str(error)
    else:
        for phase in Phase:
            samples = np.arange(dataset.num_images[phase])
            assert dataset.images(phase, samples).shape == (len(samples), 3, *dataset.image_size)
            assert set(dataset.labels(phase, samples)) <= set(range(dataset.num_classes))
    assert "\n" not in message
