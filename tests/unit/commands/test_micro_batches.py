from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vigmpi.cli.config import RunConfig
from vigmpi.commands.micro_batches import check_micro_batches, smallest_micro_batch
from vigmpi.datasets.order import images_left, micro_batches, mini_batches
from vigmpi.errors import InputError
from vigmpi.position import Position

LAYERS: Any = [SimpleNamespace(min_images=1), SimpleNamespace(min_images=2)]


def sizes_after(config: RunConfig, num_images: int, start: Position = Position()) -> list[int]:
    size, before = config.global_batch_size, start.num_images
    left = images_left(num_images, before, size, drop_last=config.drop_last)
    return [
        len(micro_batch)
        for mini_batch in mini_batches(np.arange(left), size, config.steps, start.step)
        for replica in micro_batches(mini_batch, config.replicas, config.chunks)
        for micro_batch in replica
        if len(micro_batch)
    ]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_the_smallest_micro_batch_is_that_of_the_whole_epoch(steps: int, drop_last: bool) -> None:
    for num_images in range(1, 40):
        for batch_size, replicas, chunks in ((7, 1, 3), (4, 2, 4), (10, 1, 1), (3, 3, 2)):
            config = RunConfig(
                batch_size=batch_size,
                replicas=replicas,
                chunks=chunks,
                steps=steps,
                drop_last=drop_last,
            )
            for start in (Position(), Position(step=2, num_images=min(num_images, 8))):
                expected = min(sizes_after(config, num_images, start), default=0)
                assert smallest_micro_batch(config, num_images, start) == expected


@pytest.mark.parametrize(
    ("config", "num_images", "remedies"),
    [
        (RunConfig(batch_size=8, chunks=4), 17, ["--drop-last", "--batch-size 9"]),
        (RunConfig(batch_size=7, chunks=4), 28, ["--chunks 3", "--batch-size 10"]),
        (RunConfig(batch_size=6, chunks=3, drop_last=True), 30, []),
        (RunConfig(batch_size=10**6, chunks=1000), 1500, ["--chunks 750"]),
        (RunConfig(batch_size=6, chunks=2, replicas=2), 25, ["--drop-last", "--batch-size 7"]),
    ],
)
def test_micro_batches_of_one_image_are_refused_with_a_remedy_that_helps(
    config: RunConfig, num_images: int, remedies: list[str]
) -> None:
    if not remedies:
        check_micro_batches(config, num_images, LAYERS)
        return
    check_micro_batches(config, num_images, LAYERS[:1])
    with pytest.raises(InputError) as error:
        check_micro_batches(config, num_images, LAYERS)
    for remedy in remedies:
        assert remedy in str(error.value)
        flag, _, value = remedy.removeprefix("--").partition(" ")
        change: dict[str, Any] = {flag.replace("-", "_"): int(value) if value else True}
        check_micro_batches(replace(config, **change), num_images, LAYERS)


def test_the_rest_of_an_epoch_is_checked_when_a_run_resumes_with_another_batch_size() -> None:
    config = RunConfig(batch_size=29)
    check_micro_batches(config, 50, LAYERS)
    with pytest.raises(InputError, match="leaves a training micro-batch with 1 of 50 images"):
        check_micro_batches(config, 50, LAYERS, Position(step=2, num_images=20))


def test_an_epoch_without_a_full_mini_batch_is_refused() -> None:
    with pytest.raises(InputError, match=r"no mini-batch left: --drop-last .*--no-drop-last"):
        check_micro_batches(RunConfig(batch_size=50, drop_last=True), 40, LAYERS)
