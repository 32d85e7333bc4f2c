import errno
import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mpi4py import MPI

from tests.conftest import OnRanks
from tests.ranks import Ranks
from vigmpi.checkpoint import folder as module
from vigmpi.checkpoint import manifest
from vigmpi.checkpoint.folder import CheckpointFolder
from vigmpi.checkpoint.manifest import Checkpoint, Manifest
from vigmpi.checkpoint.shards import load
from vigmpi.errors import InputError
from vigmpi.position import Position

ABOUT = Manifest("run", 0.0, Position(), {}, (6, 5), ["a"])
SHAPES = {f"tensor {rank}": (50, 10 + rank) for rank in range(3)}


def mine(number: int) -> dict[str, np.ndarray]:
    name = f"tensor {MPI.COMM_WORLD.rank}"
    return {name: np.full(SHAPES[name], number, dtype=np.float32)}


def save(checkpoints: CheckpointFolder, number: int) -> Path:
    about = replace(ABOUT, created=float(number), position=Position(mini_batches=number))
    return checkpoints.save(mine(number), about)


def keep_two(folder: str) -> None:
    checkpoints = CheckpointFolder(MPI.COMM_WORLD, Path(folder), keep=2)
    for number in (1, 2, 3, 3, 4):  # the second 3 takes the place of the first
        path = save(checkpoints, number)
        found = manifest.read(path)
        manifest.verify(path, found)
        for values in load(path, found, SHAPES).values():
            assert (values == number).all()


def test_what_all_ranks_wrote_comes_back_and_the_newest_are_kept(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    on_ranks(3, keep_two, folder=str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mini-batch-00000003",
        "mini-batch-00000004",
    ]


def one_cannot_write(folder: str) -> None:
    world = MPI.COMM_WORLD
    checkpoints = CheckpointFolder(world, Path(folder), keep=2)
    save(checkpoints, 1)

    def full(path: Path, content: bytes) -> None:  # noqa: ARG001
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write, number = module._write, 2
    for rank in range(3):
        module._write = full if world.rank == rank else write
        with pytest.raises(InputError, match=r"can't be written \(No space left on device"):
            save(checkpoints, number)
        module._write = write
        found = manifest.find("latest", Path(folder))
        assert found
        assert found.manifest
        assert found.manifest.position.mini_batches == 1
        assert not found.skipped
    save(checkpoints, number)


def test_where_one_rank_cannot_write_all_say_so_and_the_last_one_stays(
    on_ranks: OnRanks, tmp_path: Path
) -> None:
    on_ranks(3, one_cannot_write, folder=str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "mini-batch-00000001",
        "mini-batch-00000002",
    ]


def save_for_ever(folder: str) -> None:
    checkpoints = CheckpointFolder(MPI.COMM_WORLD, Path(folder), keep=2)
    found = manifest.find("latest", Path(folder))
    number = found.manifest.position.mini_batches if found and found.manifest else 0
    while True:
        number += 1
        save(checkpoints, number)


def _latest(folder: Path) -> Checkpoint | None:
    try:
        return manifest.find("latest", folder)
    except InputError:  # looked at while it was being removed
        return None


def _number(found: Checkpoint | None) -> int:
    return found.manifest.position.mini_batches if found and found.manifest else 0


@pytest.mark.parametrize("seed", range(6))
def test_a_kill_at_any_moment_leaves_a_whole_one(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    before = 0
    for _ in range(2):  # the second goes on where the first was killed
        ranks = Ranks(3)
        ranks.begin(save_for_ever, 60, {"folder": str(tmp_path)})
        try:
            limit = time.monotonic() + 60
            while _number(_latest(tmp_path)) < before + 3:
                assert time.monotonic() < limit
                assert ranks.process.poll() is None
            time.sleep(random.uniform(0, 0.2))
        finally:
            ranks.end()
        time.sleep(0.1)  # the ranks end a moment after their launcher
        found = manifest.find("latest", tmp_path)
        assert found
        assert found.manifest
        assert not found.skipped
        assert _number(found) >= before + 3
        for values in load(found.path, found.manifest, SHAPES).values():
            assert (values == _number(found)).all()
        before = _number(found)
