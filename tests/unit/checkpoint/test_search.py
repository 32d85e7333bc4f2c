import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from vigmpi.checkpoint import manifest
from vigmpi.checkpoint.manifest import Manifest, Shard
from vigmpi.checkpoint.search import Checkpoint, find
from vigmpi.errors import InputError
from vigmpi.models.config import ModelConfig
from vigmpi.position import Position

CONTENT = b"tensors"
SHARD = Shard("0.safetensors", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
MANIFEST = Manifest(
    run="1a",
    created=12.5,
    position=Position(37),
    settings={},
    model="study",
    model_config=ModelConfig(num_classes=1),
    class_names=["cat"],
    layers={"head": {"w": 0}},
    shards=[SHARD],
)


def write(folder: Path, content: Manifest = MANIFEST) -> Path:
    folder.mkdir(parents=True)
    (folder / SHARD.name).write_bytes(CONTENT)
    (folder / manifest.NAME).write_bytes(content.encode())
    return folder


@pytest.mark.parametrize("damage", [CONTENT[:-1], CONTENT + b"x", b""])
def test_a_shard_of_another_size_is_refused_before_it_is_read(
    tmp_path: Path, damage: bytes
) -> None:
    folder = write(tmp_path / "a")
    (folder / SHARD.name).write_bytes(damage)
    for name in (folder, tmp_path):
        with pytest.raises(InputError, match=r"^damaged checkpoint: .*0\.safetensors \(truncated"):
            find(str(name), None)
    (folder / SHARD.name).unlink()
    for name in (folder, tmp_path):
        message = r"^unreadable checkpoint: .*0\.safetensors \(No such"
        with pytest.raises(InputError, match=message):
            find(str(name), None)


def test_an_unsupported_format_is_refused_in_one_line_that_names_both(tmp_path: Path) -> None:
    path = write(tmp_path / "a") / manifest.NAME
    position = {"mini_batches": 37, "epoch": 1, "phase": "test", "step": 5, "images": 1000}
    for number, changes in ((1, {"position": position}), (2, {"layers": 0}), (6, {"shards": 3})):
        body = json.loads(MANIFEST.encode())["checkpoint"] | changes
        body["format"] = f"vigmpi checkpoint {number}"
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps({"sha256": digest, "checkpoint": body}))
        for name in (str(path.parent), str(tmp_path), "latest"):
            with pytest.raises(InputError) as error:
                find(name, tmp_path)
            assert str(error.value) == (
                f'unsupported checkpoint format: {path} has "vigmpi checkpoint {number}", this '
                f'version reads "vigmpi checkpoint 5". Use the path of another checkpoint, or omit '
                f"--resume to start from the beginning."
            )


def test_the_newest_complete_checkpoint_is_found_and_others_are_reported(tmp_path: Path) -> None:
    for number in range(4):  # names do not follow the order of creation
        write(tmp_path / f"mini-batch-{9 - number}", replace(MANIFEST, created=number))
    (tmp_path / "mini-batch-6" / SHARD.name).write_bytes(b"")
    (tmp_path / "mini-batch-7" / manifest.NAME).write_bytes(b"")
    write(tmp_path / ".mini-batch-10.tmp", replace(MANIFEST, created=99))
    for name in ("latest", str(tmp_path)):
        found = find(name, tmp_path)
        assert found
        assert found.path.name == "mini-batch-8"
        assert len(found.skipped) == 2
        assert all(reason.endswith(")") for reason in found.skipped)  # without the remedy
        assert [each.path.name for each in found.older] == ["mini-batch-9"]


def test_only_older_checkpoints_of_the_same_run_and_model_replace_a_damaged_one(
    tmp_path: Path,
) -> None:
    newest = write(tmp_path / "newest", replace(MANIFEST, created=9))
    write(tmp_path / "same", replace(MANIFEST, created=8, settings={"lr": 1.0}))
    write(tmp_path / "another run", replace(MANIFEST, created=7, run="2b"))
    mean = replace(MANIFEST.model_config, readout="mean")
    write(tmp_path / "another readout", replace(MANIFEST, created=6, model_config=mean))
    normalized = [[0.5] * 3, [0.2] * 3]
    write(tmp_path / "normalized", replace(MANIFEST, created=5, normalization=normalized))
    write(tmp_path / "oldest", replace(MANIFEST, created=4))
    for name in ("latest", str(tmp_path)):
        found = find(name, tmp_path)
        assert found
        assert found.path == newest
        assert [each.path.name for each in found.older] == ["same", "oldest"]
    named = find(str(newest), tmp_path)
    assert named
    assert not named.older


def test_latest_is_none_in_an_empty_folder_but_an_error_if_all_are_damaged(tmp_path: Path) -> None:
    assert find("latest", tmp_path / "nowhere") is None
    folder = write(tmp_path / "a")
    (folder / SHARD.name).write_bytes(b"")
    with pytest.raises(InputError, match=r"truncated or modified\)\. Use the path .*\.$"):
        find("latest", tmp_path)
    with pytest.raises(InputError, match=r"no such checkpoint: nowhere\. Use the path .*\.$"):
        find("nowhere", None)


def test_a_checkpoint_names_the_record_of_its_run() -> None:
    assert Checkpoint(Path("a/b.checkpoints/mini-batch-1")).record == Path("a/b.h5")
    assert Checkpoint(Path("kept/mini-batch-1")).record is None
