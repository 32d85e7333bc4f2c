import errno
import os
import platform
import shutil
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from tests.ranks import Ranks
from tests.weights import verified_weights
from vigmpi.checkpoint import folder as module
from vigmpi.checkpoint import manifest
from vigmpi.checkpoint.folder import CheckpointFolder
from vigmpi.checkpoint.manifest import Manifest
from vigmpi.checkpoint.search import Checkpoint, find
from vigmpi.cli.config import RunConfig
from vigmpi.commands.rank_group import RankGroup
from vigmpi.commands.train import train
from vigmpi.errors import InputError, RunError
from vigmpi.models.config import ModelConfig
from vigmpi.monitor.activity import Activity
from vigmpi.pipeline.batch import Batch
from vigmpi.pipeline.trainer import Trainer
from vigmpi.position import Position
from vigmpi.record.step_record import StepRecord
from vigmpi.stop_signal import StopSignal

MANIFEST = Manifest("run", 0.0, Position(), {}, "study", ModelConfig(1), ["a"])
SHAPES = {f"tensor {rank}": (50, 10 + rank) for rank in range(3)}


def own_shard(number: int) -> dict[str, dict[str, np.ndarray]]:
    rank = MPI.COMM_WORLD.rank
    name = f"tensor {rank}"
    values = np.full(SHAPES[name], number, dtype=np.float32)
    return {f"layer {rank}": {name: values}, f"nothing {rank}": {}}


def check(checkpoint: Path, number: int) -> None:
    """Compare shards and manifest of all ranks with what was saved."""
    tensors = verified_weights(checkpoint)
    assert {name: values.shape for name, values in tensors.items()} == SHAPES
    for values in tensors.values():
        assert (values == number).all()
    expected: list[tuple[str, dict[str, int]]] = []
    for rank in range(3):
        expected += [(f"layer {rank}", {f"tensor {rank}": rank}), (f"nothing {rank}", {})]
    assert list(manifest.read(checkpoint).layers.items()) == expected


def save(checkpoints: CheckpointFolder, number: int) -> Path:
    saved = replace(MANIFEST, created=float(number), position=Position(mini_batches=number))
    return checkpoints.save(own_shard(number), saved)


def keep_two(folder: str) -> None:
    checkpoints = CheckpointFolder(MPI.COMM_WORLD, Path(folder), keep=2)
    for number in (1, 2, 3, 3, 4):  # the second 3 replaces the first
        check(save(checkpoints, number), number)


def test_shards_of_all_ranks_are_read_back_and_the_newest_checkpoints_kept(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    on_ranks(3, keep_two, folder=str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mini-batch-00000003",
        "mini-batch-00000004",
    ]


def save_alone(folder: Path, number: int, keep: int = 2, **changes: Any) -> Path:
    content = replace(MANIFEST, position=Position(number), **changes)
    layers = {"layer": {"tensor": np.zeros(9)}}
    return CheckpointFolder(MPI.COMM_SELF, folder, keep).save(layers, content)


def names(folder: Path) -> list[int]:
    return sorted(int(path.name[-8:]) for path in folder.glob("mini-batch-*"))


def test_checkpoints_of_another_run_are_refused_and_never_pruned(tmp_path: Path) -> None:
    folder = CheckpointFolder(MPI.COMM_SELF, tmp_path, keep=1)
    assert folder.begin() == 0
    for number in (1, 2):
        save_alone(tmp_path, number, run="first", starts=3)
    assert folder.begin("first") == 3
    for run, remedy in (("", "--resume latest"), ("second", "--checkpoint-dir FOLDER")):
        with pytest.raises(InputError, match=f"already holds checkpoints.* Use {remedy}"):
            folder.begin(run)
    for number in (3, 4, 5):
        save_alone(tmp_path, number, 1, run="second")
    assert names(tmp_path) == [1, 2, 5]
    damaged = tmp_path / "mini-batch-00000005" / manifest.NAME
    damaged.write_bytes(b"")
    assert folder.begin("first") == 3  # it may be its own
    assert folder.begin("second", overwrite=True) == 0
    assert names(tmp_path) == [5]
    assert folder.begin(overwrite=True) == 0
    assert names(tmp_path) == []


def test_the_newest_is_that_of_the_last_start_with_most_mini_batches(tmp_path: Path) -> None:
    """Clocks run backwards here, as they seem to if the next host's clock is behind."""
    for number in range(5):
        written = save_alone(tmp_path, number, created=-number, starts=1)
        assert written.exists()
        assert latest(tmp_path) == written
    assert names(tmp_path) == [3, 4]
    # Going back to an earlier checkpoint on purpose starts a new branch, which wins.
    for number in (4, 3, 2):
        written = save_alone(tmp_path, number, created=-9, starts=6 - number)
        assert latest(tmp_path) == written
    assert names(tmp_path) == [2, 3]


def test_one_of_the_same_number_stays_until_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_to_publish(path: Path, target: Path) -> Path:
        if path.suffix == ".tmp":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(path, target)

    for starts in (1, 2):
        assert save_alone(tmp_path, 7, keep=1, starts=starts) == tmp_path / "mini-batch-00000007"
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", fail_to_publish)
            with pytest.raises(InputError, match="Input/output error"):
                save_alone(tmp_path, 7, keep=1, starts=starts + 1)
        assert manifest.read(latest(tmp_path)).starts == starts
    save_alone(tmp_path, 7, keep=1, starts=3)
    assert [path.name for path in tmp_path.iterdir()] == ["mini-batch-00000007"]


def latest(folder: Path) -> Path:
    found = find("latest", [folder])
    assert found
    return found.path


def test_remains_that_cannot_be_removed_do_not_fail_a_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))

    monkeypatch.setattr(shutil, "rmtree", lambda path, ignore_errors=False: None)  # noqa: ARG005
    for name in (".mini-batch-00000003.0.tmp", ".mini-batch-00000002.old"):
        (tmp_path / name).mkdir(parents=True)
    for number in (1, 2, 3, 4):
        save_alone(tmp_path, number, keep=1, starts=1)
    monkeypatch.setattr(module, "_retire", refused)
    written = save_alone(tmp_path, 5, keep=1, starts=1)
    assert latest(tmp_path) == written
    assert names(tmp_path) == [4, 5]


def see_another_folder(folder: str, other: str) -> None:
    world = MPI.COMM_WORLD
    same = CheckpointFolder(world, Path(folder), 1)
    same.claim()
    same.release()
    module._VISIBLE_S = 0.3
    checkpoints = CheckpointFolder(world, Path(other if world.rank == 1 else folder), 1)
    with pytest.raises(InputError, match=f"not shared by all hosts: {other} on .* Use "):
        checkpoints.claim()
    checkpoints.release()


def test_a_folder_that_is_not_shared_is_refused_before_the_first_checkpoint(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    folders = {name: str(tmp_path / name) for name in ("folder", "other")}
    Path(folders["other"]).mkdir()
    on_ranks(3, see_another_folder, **folders)
    assert not (tmp_path / "folder").exists()


def test_a_folder_in_use_is_refused_until_its_run_ends(tmp_path: Path) -> None:
    first, second = (CheckpointFolder(MPI.COMM_SELF, tmp_path, 1) for _ in range(2))
    first.claim()
    process = f"process {os.getpid()} on {platform.node()}"
    with pytest.raises(InputError, match=f"in use: {tmp_path}, by {process}. Wait"):
        second.claim()
    first.release()
    second.claim()
    second.release()
    assert not tmp_path.exists()


def train_with_a_changed_weight(record: str) -> None:
    """Change a weight of replica 1 after its third step; checkpoints are due after two each."""
    world, step = MPI.COMM_WORLD, Trainer.step

    def changing(self: Trainer, pending: Future[Batch]) -> StepRecord:
        own = step(self, pending)
        if (world.rank, own.step) == (1, 2):
            next(iter(self.stage_state().values())).flat[0] += 1
        return own

    config = RunConfig(replicas=2, dataset="synthetic", batch_size=4, blocks=1, epochs=1, steps=9)
    config = replace(config, checkpoint_steps=2, progress="off", record=Path(record))
    Trainer.step = changing  # type: ignore[method-assign]
    try:
        with pytest.raises(
            RunError, match=r"^replicas differ after mini-batch 4: \S+ of replica 1"
        ):
            train(RankGroup.of_world(world, config), Activity(world.rank), StopSignal())
    finally:
        Trainer.step = step  # type: ignore[method-assign]


def test_no_checkpoint_is_written_of_replicas_that_differ(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    on_ranks(2, train_with_a_changed_weight, record=str(tmp_path / "a.h5"))
    assert names(tmp_path / "a.h5.checkpoints") == [2]
    with h5py.File(tmp_path / "a.h5") as file:
        assert file.attrs["steps_done"] == 4
        assert not file.attrs["replicas_bit_equal"]


def fail_to_write_on_one_rank(folder: str) -> None:
    world = MPI.COMM_WORLD
    checkpoints = CheckpointFolder(world, Path(folder), keep=2)
    save(checkpoints, 1)

    def full(path: Path, content: bytes) -> None:  # noqa: ARG001
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write, number = module._write, 2
    for rank in range(3):
        module._write = full if world.rank == rank else write
        with pytest.raises(InputError, match=r"cannot write .*\(No space left on device\)\."):
            save(checkpoints, number)
        module._write = write
        checkpoint = find("latest", [Path(folder)])
        assert checkpoint
        assert checkpoint.manifest
        assert checkpoint.manifest.position.mini_batches == 1
        assert not checkpoint.skipped
    save(checkpoints, number)


def test_a_write_error_on_one_rank_is_raised_on_all_and_the_last_checkpoint_stays(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    on_ranks(3, fail_to_write_on_one_rank, folder=str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mini-batch-00000001",
        "mini-batch-00000002",
    ]


@pytest.mark.parametrize("limit", ["MANIFEST_BYTES", "SHARD_BYTES", "HEADER_BYTES"])
def test_a_checkpoint_too_large_to_be_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(module, limit, 50)
    layers = {"layer": {"tensor": np.zeros(9)}}
    with pytest.raises(InputError, match=r"^checkpoint too large: .* at most 50 are supported"):
        CheckpointFolder(MPI.COMM_SELF, tmp_path, keep=2).save(layers, MANIFEST)
    assert find("latest", [tmp_path]) is None


def save_forever(folder: str) -> None:
    checkpoints = CheckpointFolder(MPI.COMM_WORLD, Path(folder), keep=2)
    number = _number(find("latest", [Path(folder)]))
    while True:
        number += 1
        save(checkpoints, number)


def _latest(folder: Path) -> Checkpoint | None:
    try:
        return find("latest", [folder])
    except InputError:  # it is being removed
        return None


def _number(checkpoint: Checkpoint | None) -> int:
    return checkpoint.manifest.position.mini_batches if checkpoint and checkpoint.manifest else 0


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_a_kill_at_any_moment_leaves_a_complete_checkpoint(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    before = 0
    for _ in range(2):  # the second resumes where the first was killed
        ranks = Ranks(3)
        ranks.begin(save_forever, 60, {"folder": str(tmp_path)})
        try:
            limit = time.monotonic() + 60
            while _number(_latest(tmp_path)) < before + 3:
                assert time.monotonic() < limit
                assert ranks.process.poll() is None
            time.sleep(random.uniform(0, 0.2))
        finally:
            ranks.end()
        time.sleep(0.1)  # the ranks exit shortly after their launcher
        checkpoint = find("latest", [tmp_path])
        assert checkpoint
        assert checkpoint.manifest
        assert not checkpoint.skipped
        assert _number(checkpoint) >= before + 3
        check(checkpoint.path, _number(checkpoint))
        before = _number(checkpoint)
