from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vigmpi.cli.config import RunConfig
from vigmpi.commands.about import about_run
from vigmpi.commands.crew import Crew
from vigmpi.commands.row import Rows
from vigmpi.commands.session import Session
from vigmpi.datasets.order import micro_batches, mini_batches, steps
from vigmpi.phase import Phase
from vigmpi.pipeline.trainer import StepResult
from vigmpi.position import Position
from vigmpi.record.columns import CLOCKS, TIMINGS
from vigmpi.record.ledger import LEDGER, Ledger, ledger, mean
from vigmpi.record.recorder import Recorder, Row
from vigmpi.record.trace import KINDS, Trace
from vigmpi.terminal.tables import gib, ledger_table, table
from vigmpi.terminal.terminal import Terminal

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

    def __init__(self, crew: Crew, session: Session, path: Path, start: Position) -> None:
        self._crew = crew
        self._config = config = crew.config
        self._samples = session.dataset.samples
        self._seconds: dict[Phase, list[float]] = defaultdict(list)
        self._path = path
        self._recorder = Recorder(
            path,
            about_run(crew, session.dataset),
            crew.ranks,
            session.model.config.layer_names,
            overwrite=config.overwrite or (bool(crew.losses) and not start.mini_batches),
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
        rest = self._samples[start.phase] - start.num_images
        limit = self._config.limits[start.phase]
        left = steps(rest, self._config.global_batch_size, limit, start.step)
        self._terminal.begin(start.phase, start.epoch, self._config.epochs, start.step, left)

    def begin_trace(self, trace: Trace) -> None:
        offset, error = trace.clock
        clocks = {"clock_offset_s": offset, "clock_error_s": error}
        self._recorder.begin_trace(KINDS, clocks)

    def step(self, result: StepResult, rows: Rows, spans: np.ndarray | None) -> None:
        warm_up = result.phase not in self._warm
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
                self._crew.expand_to_initial_ranks(rows.timings),
                self._of_replicas(self._crew.expand_to_initial_ranks(rows.layers)),
                np.nan_to_num(self._crew.expand_to_initial_ranks(rows.peak_rss_bytes)).astype(
                    np.int64
                ),
            )
        )
        self._peaks = rows.peak_rss_bytes
        if not warm_up:
            self._seconds[result.phase].append(rows.timings[:, _WHOLE].max())
            self._ledgers[result.phase].append(self._ledger(result, rows.timings))
        self._terminal.step(result.num_images, loss, accuracy)

    def _of_replicas(self, layers: np.ndarray) -> np.ndarray:
        """[ranks, ...] to [replicas, ...]: each part's number from the rank that has one."""
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

    def break_off(self) -> None:
        """Leave the record to those that go on."""
        if self._recorder.is_open:
            self._recorder.close()

    def close(self, drift: np.ndarray | None, **attributes: Any) -> None:
        """Args: drift: of the clocks, where there is a trace."""
        if drift is not None:
            self._recorder.add_ranks("trace", CLOCKS[-1], drift)
        ledgers = {phase: mean(each) for phase, each in self._ledgers.items()}
        for phase, found in ledgers.items():
            for column, values in zip(LEDGER, found.shares.T, strict=True):
                self._recorder.add_ranks(
                    f"ledger/{phase}", column, self._crew.expand_to_initial_ranks(values)
                )
        self._recorder.close(**attributes)
        for phase, found in ledgers.items():
            shares = found.shares.reshape(-1, self._config.stages, len(LEDGER)).mean(axis=0)
            names = [column.name for column in LEDGER]
            print(ledger_table(phase, names, shares, found.step_s, found.closed_form_s))
        print(table({phase: self._seconds[phase] for phase in Phase}))
        print(
            f"peak memory: {gib(self._peaks.sum())} over {len(self._peaks)} ranks, "
            f"{gib(self._peaks.max())} on the largest"
        )
        print(f"record: {self._path}", flush=True)


def _first_lines(crew: Crew, session: Session, start: Position) -> Iterator[str]:
    """What a user should know before the first mini-batch."""
    config, forecast, ranks = crew.config, session.forecast, session.ranks
    if crew.losses:
        done, lost = crew.losses[-1]
        if lost:
            yield (
                f"warning: lost after mini-batch {done}: rank{'s' * (len(lost) > 1)} "
                f"{', '.join(map(str, lost))} of {crew.initial_size}; going on with "
                f"{config.replicas} of the replicas, whose mini-batches have "
                f"{config.global_batch_size} images"
            )
        else:
            yield f"warning: MPI failed after mini-batch {done}; going on, since no rank is lost"
        yield _layout_line(config, ranks)
        return
    yield f"data: {session.dataset.description}"
    yield _layout_line(config, ranks)
    yield (
        f"memory: forecast {gib(forecast.host)} at the peak on this host, which has "
        f"{gib(forecast.available)} for it; {gib(ranks['forecast_rss_bytes'].max())} on the "
        f"largest rank"
    )
    if config.start:
        yield from (f"warning: {reason}: passed over" for reason in config.start.skipped)
        where = f", epoch {start.epoch + 1}, {start.phase} step {start.step + 1}"
        yield f"start: {config.start.path}{where if config.resume else ''}"
    elif config.resume:
        yield "start: there is no checkpoint yet, so from the beginning"
    if _has_single_images(config, session.dataset.samples[Phase.TRAIN]):
        yield _ONE_IMAGE


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
    images = config.global_batch_size
    return any(
        len(micro_batch) == 1
        for mini_batch in mini_batches(np.arange(samples), images, config.steps)
        for share in micro_batches(mini_batch, config.replicas, config.chunks)
        for micro_batch in share
    )
