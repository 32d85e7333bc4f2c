import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from vigmpi.checkpoint import manifest, search
from vigmpi.checkpoint.manifest import Manifest, Shard
from vigmpi.checkpoint.search import Checkpoint, find, folder_of, folders_of_job, newer
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
            find(str(name))
    (folder / SHARD.name).unlink()
    for name in (folder, tmp_path):
        message = r"^unreadable checkpoint: .*0\.safetensors \(No such"
        with pytest.raises(InputError, match=message):
            find(str(name))


def test_an_unsupported_format_is_refused_in_one_line_that_names_both(tmp_path: Path) -> None:
    path = write(tmp_path / "a") / manifest.NAME
    position = {"mini_batches": 37, "epoch": 1, "phase": "test", "step": 5, "images": 1000}
    for number, changes in ((1, {"position": position}), (2, {"layers": 0}), (7, {"shards": 3})):
        body = json.loads(MANIFEST.encode())["checkpoint"] | changes
        body["format"] = f"vigmpi checkpoint {number}"
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps({"sha256": digest, "checkpoint": body}))
        for name in (str(path.parent), str(tmp_path), "latest"):
            with pytest.raises(InputError) as error:
                find(name, [tmp_path])
            assert str(error.value) == (
                f'unsupported checkpoint format: {path} has "vigmpi checkpoint {number}", this '
                f'version reads "vigmpi checkpoint 5" and "vigmpi checkpoint 6". Use the path of '
                f"another checkpoint, or omit --resume to start from the beginning."
            )


def test_the_newest_complete_checkpoint_is_found_and_others_are_reported(tmp_path: Path) -> None:
    for number in range(4):  # names do not follow the order of creation
        write(tmp_path / f"mini-batch-{9 - number}", replace(MANIFEST, created=number))
    (tmp_path / "mini-batch-6" / SHARD.name).write_bytes(b"")
    (tmp_path / "mini-batch-7" / manifest.NAME).write_bytes(b"")
    write(tmp_path / ".mini-batch-10.tmp", replace(MANIFEST, created=99))
    for name in ("latest", str(tmp_path)):
        found = find(name, [tmp_path])
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
    another = replace(MANIFEST.model_config, readout="sum")
    write(tmp_path / "another readout", replace(MANIFEST, created=6, model_config=another))
    normalized = [[0.5] * 3, [0.2] * 3]
    write(tmp_path / "normalized", replace(MANIFEST, created=5, normalization=normalized))
    write(tmp_path / "oldest", replace(MANIFEST, created=4))
    for name in ("latest", str(tmp_path)):
        found = find(name, [tmp_path])
        assert found
        assert found.path == newest
        assert [each.path.name for each in found.older] == ["same", "oldest"]
    named = find(str(newest), [tmp_path])
    assert named
    assert not named.older


def test_latest_is_none_in_an_empty_folder_but_an_error_if_all_are_damaged(tmp_path: Path) -> None:
    assert find("latest", [tmp_path / "nowhere"]) is None
    folder = write(tmp_path / "a")
    (folder / SHARD.name).write_bytes(b"")
    with pytest.raises(InputError, match=r"truncated or modified\)\. Use the path .*\.$"):
        find("latest", [tmp_path])
    with pytest.raises(InputError, match=r"no such checkpoint: nowhere\. Use the path .*\.$"):
        find("nowhere")


def test_a_checkpoint_names_the_record_of_its_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content = replace(MANIFEST, settings={"record": "kept.h5"})
    for record in ("a/b.h5", "a/b.hdf5", "lr0.1"):
        folder = folder_of(Path(record))
        assert Checkpoint(folder / "mini-batch-1", content).record == Path(record)
        assert Checkpoint(folder / "best/mini-batch-1", content).record == Path(record)
    assert folder_of(Path("lr0.1")) != folder_of(Path("lr0.2"))
    assert Checkpoint(Path("a/b.checkpoints/mini-batch-1"), content).record == Path("a/b")
    Path("a").mkdir()
    Path("a/b.h5").touch()  # of an earlier version
    assert Checkpoint(Path("a/b.checkpoints/mini-batch-1"), content).record == Path("a/b.h5")
    assert Checkpoint(Path("folder/mini-batch-1"), content).record is None
    Path("kept.h5").touch()
    assert Checkpoint(Path("folder/mini-batch-1"), content).record == Path("kept.h5")
    assert Checkpoint(Path("folder/mini-batch-1"), content, replace_head=True).record is None
    assert Checkpoint(Path("a/b.h5.checkpoints/weights.pt")).record is None


def test_a_checkpoint_that_a_training_removes_is_replaced_by_its_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = write(tmp_path / "mini-batch-1")
    found = find(str(tmp_path))
    named = find(str(first))
    assert found
    assert named
    assert newer(found) is None
    write(tmp_path / "mini-batch-2", replace(MANIFEST, position=Position(38)))
    shutil.rmtree(first)
    instead = newer(replace(found, use_averages=False))
    assert instead
    assert (instead.path.name, instead.use_averages) == ("mini-batch-2", False)
    assert newer(named) is None
    shutil.rmtree(tmp_path / "mini-batch-2")
    assert newer(found) is None
    write(tmp_path / "mini-batch-3", replace(MANIFEST, run="2b"))
    assert newer(found) is None

    reads = []

    def removed(folder: Path) -> Manifest:
        """Remove the checkpoint that is read first, and write another one."""
        reads.append(folder)
        if len(reads) == 1:
            shutil.rmtree(folder)
            write(tmp_path / "mini-batch-4")
        return manifest.read(folder)

    monkeypatch.setattr(search, "read", removed)
    found = find(str(tmp_path))
    assert found
    assert found.path.name == "mini-batch-4"


def test_the_folders_of_a_slurm_job_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("vigmpi-12.h5", "vigmpi-12-2.h5", "vigmpi-123.h5", "vigmpi-1-2.h5"):
        folder_of(Path(name)).mkdir()
    found = sorted(path.name for path in folders_of_job("12"))
    assert found == ["vigmpi-12-2.h5.checkpoints", "vigmpi-12.h5.checkpoints"]
