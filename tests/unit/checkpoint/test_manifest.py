import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigmpi.checkpoint import manifest
from vigmpi.checkpoint.manifest import Manifest, Shard
from vigmpi.errors import InputError
from vigmpi.phase import Phase
from vigmpi.position import Position

CONTENT = b"tensors"
SHARD = Shard("0.safetensors", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
ABOUT = Manifest(
    run="1a",
    created=12.5,
    position=Position(37, 1, Phase.TEST, 5, 1000),
    settings={"stages": 2, "split": [4, 4], "lr": 1e-4, "dataset": "digits", "trace": False},
    image_size=(32, 30),
    class_names=["cat", "dög"],
    normalization=[[0.5, 0.25, 0.125], [0.2, 0.1, 0.3]],
    shards=[SHARD],
)


def write(folder: Path, about: Manifest = ABOUT) -> Path:
    folder.mkdir(parents=True)
    (folder / SHARD.name).write_bytes(CONTENT)
    (folder / manifest.NAME).write_bytes(about.encode())
    return folder


def test_a_manifest_comes_back_as_it_was(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    assert manifest.read(folder) == ABOUT
    manifest.verify(folder, ABOUT)


@given(st.data())
def test_no_damaged_manifest_is_taken(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Cut short anywhere, or with any byte changed to another."""
    text = ABOUT.encode()
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != text[at]))
    folder = tmp_path_factory.mktemp("damaged")
    for damaged in (text[:at], text[:at] + bytes([byte]) + text[at + 1 :]):
        (folder / manifest.NAME).write_bytes(damaged)
        try:
            found = manifest.read(folder)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert found == ABOUT  # white space, or a number written another way


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT + b"x", b"Tensors", b""])
def test_no_damaged_shard_is_taken(tmp_path: Path, damage: bytes) -> None:
    folder = write(tmp_path / "a")
    (folder / SHARD.name).write_bytes(damage)
    with pytest.raises(InputError, match=r"0\.safetensors is cut short or changed"):
        manifest.verify(folder, ABOUT)
    (folder / SHARD.name).unlink()
    with pytest.raises(InputError, match=r"0\.safetensors can't be read"):
        manifest.verify(folder, ABOUT)


def signed(**changes: object) -> bytes:
    """A manifest with other content, and the digest that belongs to it."""
    body = json.loads(ABOUT.encode())["checkpoint"] | changes
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({"sha256": digest, "checkpoint": body}).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b"{}",
        b"[1]",
        b"null",
        b" " * (2**20 + 1),
        b'{"sha256": "", "sha256": ""}',
        b"\xff\xfe",
        signed(format="vigmpi checkpoint 2"),
        signed(shards=[{"name": "../0.safetensors", "size_bytes": 1, "sha256": ""}]),
        signed(shards=[{"name": "/etc/passwd", "size_bytes": 1, "sha256": ""}]),
        signed(shards=3),
        signed(shards=[{"name": 5, "size_bytes": 1, "sha256": ""}]),
        signed(position={"epoch": -1}),
        signed(position={"epoch": "1"}),
        signed(position={"phase": "sleep"}),
        signed(position={"mini_batches": 1, "era": 2}),
        signed(image_size=[1]),
        signed(image_size="32"),
        signed(settings=[1]),
        signed(created="soon"),
        signed(class_names=7),
    ],
)
def test_a_hostile_manifest_is_refused_in_one_line(tmp_path: Path, text: bytes) -> None:
    folder = write(tmp_path / "a")
    (folder / manifest.NAME).write_bytes(text)
    with pytest.raises(InputError, match=r"manifest\.json can't be read") as error:
        manifest.read(folder)
    assert "\n" not in str(error.value)


def test_the_newest_whole_one_is_found_and_why_others_were_not(tmp_path: Path) -> None:
    for number in range(4):  # the names say nothing
        write(tmp_path / f"mini-batch-{9 - number}", replace(ABOUT, created=number))
    (tmp_path / "mini-batch-6" / SHARD.name).write_bytes(b"")
    (tmp_path / "mini-batch-7" / manifest.NAME).write_bytes(b"")
    write(tmp_path / ".mini-batch-10.tmp", replace(ABOUT, created=99))
    for name in ("latest", str(tmp_path)):
        found = manifest.find(name, tmp_path)
        assert found
        assert found.path.name == "mini-batch-8"
        assert len(found.skipped) == 2


def test_latest_of_nothing_is_the_beginning_but_of_damaged_ones_an_error(tmp_path: Path) -> None:
    assert manifest.find("latest", tmp_path / "nowhere") is None
    folder = write(tmp_path / "a")
    (folder / SHARD.name).write_bytes(b"")
    with pytest.raises(InputError, match="cut short or changed; type: the path of another"):
        manifest.find("latest", tmp_path)
    with pytest.raises(InputError, match="there is no checkpoint nowhere; type: "):
        manifest.find("nowhere", None)


def test_a_checkpoint_knows_its_runs_record() -> None:
    assert manifest.Checkpoint(Path("a/b.checkpoints/mini-batch-1")).record == Path("a/b.h5")
    assert manifest.Checkpoint(Path("kept/mini-batch-1")).record is None
