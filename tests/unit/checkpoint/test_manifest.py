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
MANIFEST = Manifest(
    run="1a",
    created=12.5,
    position=Position(37, 1, Phase.TEST, 5, 1000),
    settings={"stages": 2, "split": [4, 4], "lr": 1e-4, "dataset": "digits", "trace": False},
    image_size=(32, 30),
    class_names=["cat", "dög"],
    normalization=[[0.5, 0.25, 0.125], [0.2, 0.1, 0.3]],
    shards=[SHARD],
)


def write(folder: Path, content: Manifest = MANIFEST) -> Path:
    folder.mkdir(parents=True)
    (folder / SHARD.name).write_bytes(CONTENT)
    (folder / manifest.NAME).write_bytes(content.encode())
    return folder


def test_a_manifest_is_read_back_as_written(tmp_path: Path) -> None:
    folder = write(tmp_path / "a")
    assert manifest.read(folder) == MANIFEST
    manifest.verify(folder, MANIFEST)


@given(st.data())
def test_a_damaged_manifest_is_never_accepted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Truncate the manifest anywhere, or change any byte to any other."""
    text = MANIFEST.encode()
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != text[at]))
    folder = tmp_path_factory.mktemp("damaged")
    for damaged in (text[:at], text[:at] + bytes([byte]) + text[at + 1 :]):
        (folder / manifest.NAME).write_bytes(damaged)
        try:
            content = manifest.read(folder)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert content == MANIFEST  # other white space or notation of a number


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT + b"x", b"Tensors", b""])
def test_a_damaged_shard_is_never_accepted(tmp_path: Path, damage: bytes) -> None:
    folder = write(tmp_path / "a")
    (folder / SHARD.name).write_bytes(damage)
    with pytest.raises(InputError, match=r"^damaged checkpoint: .*0\.safetensors \(truncated"):
        manifest.verify(folder, MANIFEST)
    (folder / SHARD.name).unlink()
    with pytest.raises(InputError, match=r"^unreadable checkpoint: .*0\.safetensors \(No such"):
        manifest.verify(folder, MANIFEST)


def signed(**changes: object) -> bytes:
    """Return a manifest with changed content and a matching digest."""
    body = json.loads(MANIFEST.encode())["checkpoint"] | changes
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
        signed(position={"mini_batches": 1, "images": 2}),
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
    with pytest.raises(InputError, match=r"^damaged checkpoint: .*manifest\.json \(") as error:
        manifest.read(folder)
    assert "\n" not in str(error.value)


def test_an_unsupported_format_is_refused_in_one_line_that_names_both(tmp_path: Path) -> None:
    path = write(tmp_path / "a") / manifest.NAME
    position = {"mini_batches": 37, "epoch": 1, "phase": "test", "step": 5, "images": 1000}
    for number, changes in ((1, {"position": position}), (3, {"shards": 3})):
        path.write_bytes(signed(format=f"vigmpi checkpoint {number}", **changes))
        for name in (str(path.parent), str(tmp_path), "latest"):
            with pytest.raises(InputError) as error:
                manifest.find(name, tmp_path)
            assert str(error.value) == (
                f'unsupported checkpoint format: {path} has "vigmpi checkpoint {number}", this '
                f'version reads "vigmpi checkpoint 2". Use the path of another checkpoint, or omit '
                f"--resume to start from the beginning."
            )


def test_the_newest_undamaged_checkpoint_is_found_and_others_are_reported(tmp_path: Path) -> None:
    for number in range(4):  # names do not follow the order of creation
        write(tmp_path / f"mini-batch-{9 - number}", replace(MANIFEST, created=number))
    (tmp_path / "mini-batch-6" / SHARD.name).write_bytes(b"")
    (tmp_path / "mini-batch-7" / manifest.NAME).write_bytes(b"")
    write(tmp_path / ".mini-batch-10.tmp", replace(MANIFEST, created=99))
    for name in ("latest", str(tmp_path)):
        found = manifest.find(name, tmp_path)
        assert found
        assert found.path.name == "mini-batch-8"
        assert len(found.skipped) == 2
        assert all(reason.endswith(")") for reason in found.skipped)  # without the remedy


def test_latest_is_none_in_an_empty_folder_but_an_error_if_all_are_damaged(tmp_path: Path) -> None:
    assert manifest.find("latest", tmp_path / "nowhere") is None
    folder = write(tmp_path / "a")
    (folder / SHARD.name).write_bytes(b"")
    with pytest.raises(InputError, match=r"truncated or modified\)\. Use the path .*\.$"):
        manifest.find("latest", tmp_path)
    with pytest.raises(InputError, match=r"no such checkpoint: nowhere\. Use the path .*\.$"):
        manifest.find("nowhere", None)


def test_a_checkpoint_names_the_record_of_its_run() -> None:
    assert manifest.Checkpoint(Path("a/b.checkpoints/mini-batch-1")).record == Path("a/b.h5")
    assert manifest.Checkpoint(Path("kept/mini-batch-1")).record is None
