"""Output of rank 0: the record, progress on the terminal, and the closing tables."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vigmpi.cli.config import RunConfig
from vigmpi.commands.crew import Crew
from vigmpi.commands.provenance import run_attributes
from vigmpi.commands.row import Rows
from vigmpi.commands.session import Session
from vigmpi.datasets.order import micro_batches, mini_batches, num_mini_batches
from vigmpi.phase import Phase
from vigmpi.pipeline.trainer import StepResult
from vigmpi.position import Position
from vigmpi.record.columns import CLOCKS, TIMINGS
from vigmpi.record.ledger import LEDGER, Ledger, ledger, mean
from vigmpi.record.recorder import Recorder, Row
from vigmpi.record.trace import KINDS, Trace
from vigmpi.terminal.tables import gib, ledger_table, table
from vigmpi.terminal.terminal import Terminal

_STEP_S = [column.name for column in TIMINGS].index("step_s")
_SINGLE_IMAGE = (
    "warning: some training micro-batches hold a single image: --batch-size {}, --chunks {}. "
    "Use fewer --chunks or a larger --batch-size, because batch norm leaves no signal of a single "
    "image and the blocks learn nothing from it."
)


class Report:
    """The record and the terminal output of a run, on rank 0.

    Raises:
        InputError: if the record cannot be written.
    """

    def __init__(self, crew: Crew, session: Session, path: Path, start: Position) -> None:
        self._crew = crew
        self._config = config = crew.config
        self._num_images = session.dataset.num_images
        self._step_seconds: dict[Phase, list[float]] = defaultdict(list)
        self._path = path
        self._recorder = Recorder(
            path,
            run_attributes(crew, session.dataset),
            crew.ranks,
            session.model.config.layer_names,
            overwrite=config.overwrite or (bool(crew.rank_losses) and not start.mini_batches),
            resume_from=start.mini_batches,
        )
        self._ledgers: dict[Phase, list[Ledger]] = defaultdict(list)
        self._warm: set[Phase] = set()
        self._peaks = np.zeros(config.layout.ranks)
        self._terminal = Terminal(config.progress)
        for line in _first_lines(crew, session, start):
            self.note(line)

    def note(self, text: str) -> None:
        self._terminal.note(text)

    def begin(self, start: Position) -> None:
        num_images = self._num_images[start.phase] - start.num_images
        limit = self._config.limits[start.phase]
        num_steps = num_mini_batches(num_images, self._config.global_batch_size, limit, start.step)
        self._terminal.begin(start.phase, start.epoch, self._config.epochs, start.step, num_steps)

    def begin_trace(self, trace: Trace) -> None:
        offset, error = trace.clock
        clocks = {"clock_offset_s": offset, "clock_error_s": error}
        self._recorder.begin_trace(KINDS, clocks)

    def step(self, result: StepResult, rows: Rows, spans: np.ndarray | None) -> None:
        expand, warm_up = self._crew.expand_to_initial_ranks, result.phase not in self._warm
        self._warm.add(result.phase)
        loss, accuracy = float(rows.loss.sum()), float(rows.correct.sum()) / result.num_images
        if spans is not None:
            self._recorder.add_spans(spans)
        self._recorder.add(
            Row(
                {
                    "epoch": result.epoch,
                    "step": result.step,
                    "phase": list(Phase).index(result.phase),
                    "warm_up": warm_up,
                    "num_images": result.num_images,
                    "loss": loss,
                    "accuracy": accuracy,
                    "finite": result.finite and np.isfinite(loss),
                },
                expand(rows.timings),
                self._by_replica(expand(rows.layers)),
                np.nan_to_num(expand(rows.peak_rss_bytes)).astype(np.int64),
            )
        )
        self._peaks = rows.peak_rss_bytes
        if not warm_up:
            self._step_seconds[result.phase].append(rows.timings[:, _STEP_S].max())
            self._ledgers[result.phase].append(self._ledger(result, rows.timings))
        self._terminal.step(result.num_images, loss, accuracy)

    def _by_replica(self, layers: np.ndarray) -> np.ndarray:
        """Merge layer timings [ranks, ...], NaN where not run, to [replicas, ...]."""
        by_replica = layers.reshape(-1, self._config.stages, *layers.shape[1:])
        return np.fmax.reduce(by_replica, axis=1)

    def _ledger(self, result: StepResult, timings: np.ndarray) -> Ledger:
        by_name = {column.name: timings[:, i] for i, column in enumerate(TIMINGS)}
        replicas = self._config.replicas
        micro_batches = min(self._config.chunks, -(-result.num_images // replicas))
        return ledger(by_name, replicas, micro_batches)

    def end(self) -> None:
        self._terminal.end()

    def flush(self) -> None:
        self._recorder.flush()

    def release_record(self) -> None:
        """Close the record, so that the surviving ranks can continue it."""
        if self._recorder.is_open:
            self._recorder.close()

    def close(self, drift: np.ndarray | None, **attributes: Any) -> None:
        """Close the record and print the tables; `drift` is that of the clocks, in s, [ranks]."""
        expand = self._crew.expand_to_initial_ranks
        if drift is not None:
            self._recorder.add_ranks("trace", CLOCKS[-1], drift)
        ledgers = {phase: mean(each) for phase, each in self._ledgers.items()}
        for phase, phase_ledger in ledgers.items():
            for column, values in zip(LEDGER, phase_ledger.shares.T, strict=True):
                self._recorder.add_ranks(f"ledger/{phase}", column, expand(values))
        self._recorder.close(**attributes)
        names = [column.name for column in LEDGER]
        for phase, (shares, step_s, closed_form_s) in ledgers.items():
            by_stage = shares.reshape(-1, self._config.stages, len(LEDGER)).mean(axis=0)
            print(ledger_table(phase, names, by_stage, step_s, closed_form_s))
        print(table({phase: self._step_seconds[phase] for phase in Phase}))
        print(
            f"peak memory: {gib(self._peaks.sum())} on {_count(len(self._peaks), 'rank')}, "
            f"{gib(self._peaks.max())} on the largest"
        )
        print(f"record: {self._path}", flush=True)


def _first_lines(crew: Crew, session: Session, start: Position) -> Iterator[str]:
    """Yield the lines to print before the first mini-batch."""
    config, forecast, ranks = crew.config, session.forecast, session.ranks
    if crew.rank_losses:
        done, lost = crew.rank_losses[-1]
        if lost:
            yield (
                f"warning: lost after mini-batch {done}: rank{'s' * (len(lost) > 1)} "
                f"{', '.join(map(str, lost))} of {crew.initial_size}. Continuing with "
                f"{_count(config.replicas, 'replica')} and mini-batches of "
                f"{_count(config.global_batch_size, 'image')}."
            )
        else:
            yield f"warning: MPI failed after mini-batch {done}: no rank lost. Continuing."
        yield _layout_line(config, ranks)
        return
    yield f"data: {session.dataset.description}"
    yield _layout_line(config, ranks)
    yield (
        f"memory: forecast peak {gib(forecast.host)} on this host, {gib(forecast.available)} "
        f"available; {gib(ranks['forecast_rss_bytes'].max())} on the largest rank"
    )
    if config.start:
        yield from (f"warning: checkpoint skipped: {reason}." for reason in config.start.skipped)
        position = f", epoch {start.epoch + 1}, {start.phase} step {start.step + 1}"
        yield f"start: {config.start.path}{position if config.resume else ''}"
    elif config.resume:
        yield "start: no checkpoint yet, training from the beginning"
    if _has_single_images(config, session.dataset.num_images[Phase.TRAIN]):
        yield _SINGLE_IMAGE.format(config.batch_size, config.chunks)


def _layout_line(config: RunConfig, ranks: dict[str, np.ndarray]) -> str:
    split = "|".join(str(len(blocks)) for blocks in config.stage_blocks)
    threads = "/".join(map(str, sorted(set(ranks["threads"]))))
    hosts = _count(len(set(ranks["host"])), "host")
    return (
        f"layout: {_count(config.stages, 'stage')} (blocks {split}) x "
        f"{_count(config.replicas, 'replica')} = {_count(config.layout.ranks, 'rank')} on {hosts}, "
        f"threads per rank: {threads}; mini-batches of {_count(config.batch_size, 'image')} per "
        f"replica in {_count(config.chunks, 'micro-batch', 'es')}"
    )


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural * (number != 1)}"


def _has_single_images(config: RunConfig, samples: int) -> bool:
    num_images = config.global_batch_size
    return any(
        len(micro_batch) == 1
        for mini_batch in mini_batches(np.arange(samples), num_images, config.steps)
        for share in micro_batches(mini_batch, config.replicas, config.chunks)
        for micro_batch in share
    )
