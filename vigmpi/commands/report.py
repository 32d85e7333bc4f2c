import os
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from vigmpi.commands.about import about_run
from vigmpi.config import RunConfig
from vigmpi.datasets import Dataset
from vigmpi.datasets.order import micro_batches, mini_batches, steps
from vigmpi.phase import Phase
from vigmpi.record.columns import TIMINGS
from vigmpi.record.recorder import Recorder
from vigmpi.record.terminal import Terminal, gib, table
from vigmpi.runtime.forecast import Forecast
from vigmpi.runtime.trainer import StepResult

_WHOLE = [column.name for column in TIMINGS].index("step_s")
_ONE_IMAGE = (
    "warning: some micro-batches of training hold a single image, and batch norm leaves it no "
    "signal: the blocks learn nothing from it. Fewer --chunks or a larger --batch-size avoid this"
)


class Report:
    """What rank 0 writes and shows of a run.

    Raises:
        InputError: the record cannot be written.
    """

    def __init__(
        self,
        config: RunConfig,
        dataset: Dataset,
        ranks: dict[str, np.ndarray],
        forecast: Forecast,
    ) -> None:
        self._steps = {
            phase: steps(dataset.samples[phase], config.mini_batch_images, limit)
            for phase, limit in config.limits.items()
        }
        self._epochs = config.epochs
        self._seconds: dict[Phase, list[float]] = defaultdict(list)
        self._path = config.output or _default_output()
        self._recorder = Recorder(
            self._path, about_run(config, dataset), ranks, overwrite=config.overwrite
        )
        self._terminal = Terminal(config.progress)
        self._terminal.note(f"data: {dataset.description}")
        self._terminal.note(_layout_line(config, ranks))
        self._terminal.note(
            f"memory: forecast {gib(forecast.host)} at the peak on this host, which has "
            f"{gib(forecast.available)} for it; {gib(ranks['forecast_rss_bytes'].max())} on the "
            f"largest rank"
        )
        if _has_single_images(config, dataset.samples[Phase.TRAIN]):
            self._terminal.note(_ONE_IMAGE)

    def begin(self, phase: Phase, epoch: int) -> None:
        self._terminal.begin(phase, epoch, self._epochs, self._steps[phase])

    def step(self, result: StepResult, rows: np.ndarray) -> None:
        """Take a mini-batch.

        Args:
            rows: of every rank, the timings, then its share of the loss, its right answers and
                its peak memory.
        """
        timings, (losses, correct, peaks) = rows[:, :-3], rows[:, -3:].T
        warm_up = result.epoch == result.step == 0
        loss, accuracy = float(losses.sum()), float(correct.sum()) / result.images
        self._recorder.add(
            {
                "epoch": result.epoch,
                "step": result.step,
                "phase": list(Phase).index(result.phase),
                "warm_up": warm_up,
                "images": result.images,
                "loss": loss,
                "accuracy": accuracy,
            },
            timings,
            peaks.astype(np.int64),
        )
        self._peaks = peaks
        if not warm_up:
            self._seconds[result.phase].append(timings[:, _WHOLE].max())
        self._terminal.step(result.images, loss, accuracy)

    def end(self) -> None:
        self._terminal.end()

    def close(self, **attributes: Any) -> None:
        self._recorder.close(**attributes)
        print(table({phase: self._seconds[phase] for phase in Phase}))
        print(
            f"peak memory: {gib(self._peaks.sum())} over {len(self._peaks)} ranks, "
            f"{gib(self._peaks.max())} on the largest"
        )
        print(f"record: {self._path}", flush=True)


def _default_output() -> Path:
    job = os.environ.get("SLURM_JOB_ID") or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path(f"vigmpi-{job}.h5")


def _layout_line(config: RunConfig, ranks: dict[str, np.ndarray]) -> str:
    split = "|".join(str(len(blocks)) for blocks in config.stage_blocks)
    threads = "/".join(map(str, sorted(set(ranks["threads"]))))
    return (
        f"layout: {config.stages} stages (blocks {split}) x {config.replicas} replicas; "
        f"mini-batches of {config.batch_size} images a replica in {config.chunks} chunks; "
        f"ranks: {config.layout.ranks}, hosts: {len(set(ranks['host']))}, "
        f"threads a rank: {threads}"
    )


def _has_single_images(config: RunConfig, samples: int) -> bool:
    images = config.mini_batch_images
    return any(
        len(micro_batch) == 1
        for mini_batch in mini_batches(np.arange(samples), images, config.steps)
        for share in micro_batches(mini_batch, config.replicas, config.chunks)
        for micro_batch in share
    )
