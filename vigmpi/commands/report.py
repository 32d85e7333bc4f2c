"""Output of rank 0: the record, progress on the terminal, and the closing tables."""

import time
from collections.abc import Iterator, Mapping
from functools import cache, partial
from itertools import compress
from typing import Any

import numpy as np

from vigmpi.checkpoint.search import Checkpoint
from vigmpi.cli.config import RunConfig
from vigmpi.commands.micro_batches import smallest_micro_batch
from vigmpi.commands.provenance import run_attributes
from vigmpi.commands.rank_group import RankGroup
from vigmpi.commands.run import FEW_STEPS, Run
from vigmpi.datasets.order import images_left, num_mini_batches
from vigmpi.errors import RunError
from vigmpi.host import has_bfloat16_instructions
from vigmpi.phase import Phase
from vigmpi.pipeline.pipeline import PipelineConfig
from vigmpi.position import Position
from vigmpi.record.columns import CLOCKS
from vigmpi.record.ledger import LEDGER, Ledger, MeanLedger, ledger
from vigmpi.record.recorder import Recorder
from vigmpi.record.step_record import Row, StepRecord
from vigmpi.record.timings import TIMINGS, timed_kinds
from vigmpi.record.trace import Trace
from vigmpi.schedule.action import Action
from vigmpi.schedule.program import dependencies
from vigmpi.standard_streams import print_result
from vigmpi.terminal.tables import Statistics, gib, ledger_table, table
from vigmpi.terminal.terminal import Terminal

_SINGLE_IMAGE = (
    "warning: some training micro-batches hold a single image: --batch-size {}, --chunks {}. "
    "Use fewer --chunks or a larger --batch-size, because batch norm leaves no signal of a single "
    "image and the blocks learn nothing from it."
)

_LAGGING = (
    "warning: only {} training steps: the running statistics of batch norm may lag behind the "
    "weights, so that tests stay near chance. Use more --epochs or a smaller --batch-size."
)

_SLOW_BFLOAT16 = (
    "warning: --precision bf16 on a processor without bfloat16 instructions: products take longer "
    "than in fp32. Use --precision fp32, unless memory or messages are the limit."
)


class Report:
    """The terminal output of a run, and its record if it has one, on rank 0.

    Args:
        start: the position at which this process started.
        overwrite: whether to replace an existing record.

    Raises:
        InputError: if the record cannot be written.
    """

    def __init__(
        self, group: RankGroup, run: Run, start: Position, *, overwrite: bool = False
    ) -> None:
        self._group = group
        self._config = config = group.config
        self._pipeline_config = run.pipeline.config
        self._num_images = run.dataset.num_images
        self._step_seconds = {phase: Statistics() for phase in Phase}
        self._recorder: Recorder | None = None
        if config.record:
            self._recorder = Recorder(
                config.record,
                run_attributes(group, run.dataset, self._pipeline_config),
                group.initial_config.layout,
                group.ranks,
                [layer.name for layer in self._pipeline_config.layers],
                overwrite=overwrite or (bool(group.rank_losses) and not start.mini_batches),
                resume_from=start.mini_batches,
                unwritten=group.unrecorded,
            )
        self._ledgers = {phase: MeanLedger() for phase in Phase}
        self._dependencies = cache(partial(_dependencies, self._pipeline_config))
        self._peaks = np.zeros(config.layout.ranks)
        self._terminal = Terminal(config.progress)
        for line in _first_lines(group, run, start):
            self.note(line)

    def note(self, text: str) -> None:
        self._terminal.note(text)

    def begin(self, start: Position) -> None:
        config, phase = self._config, start.phase
        batch_size = config.global_batch_size
        drop_last = config.drop_last and phase is Phase.TRAIN
        images = self._num_images[phase], start.num_images
        left = images_left(*images, batch_size, drop_last=drop_last)
        num_steps = num_mini_batches(left, batch_size, config.limits[phase], start.step)
        self._terminal.begin(phase, start.epoch, config.epochs, start.step, num_steps)

    def begin_trace(self, trace: Trace) -> None:
        offset, error = trace.clock
        clocks = {"clock_offset_s": offset, "clock_error_s": error}
        if self._recorder:
            self._recorder.begin_trace(timed_kinds(), clocks)

    @property
    def num_recorded(self) -> int:
        """Number of mini-batches of the run that the record holds."""
        return self._recorder.num_written if self._recorder else 0

    def step(self, row: Row, spans: np.ndarray | None) -> None:
        record, phase = row.record, row.record.phase
        if self._recorder:
            if spans is not None:
                self._recorder.add_spans(spans)
            self._recorder.add(row)
        self._peaks = record.ranks["peak_rss_bytes"]
        if not row.warm_up:
            self._step_seconds[phase].add(float(record.timing("step_s").max()))
            self._ledgers[phase].add(self._ledger(record))
        self._terminal.step(record.num_images, record.loss, record.correct / record.num_images)

    def _ledger(self, record: StepRecord) -> Ledger:
        layout = self._pipeline_config.layout
        chunks = min(layout.chunks, record.num_images)  # of replica 0, which has the most
        timings = {name: record.timing(name) for name in TIMINGS}
        return ledger(timings, layout.shape, self._dependencies(record.phase, chunks))

    def end(self) -> None:
        self._terminal.end()

    def flush(self) -> None:
        if self._recorder:
            self._recorder.flush()

    def release_record(self) -> None:
        """Close the record, so that the surviving ranks can continue it."""
        if self._recorder and self._recorder.is_open:
            self._recorder.close()

    def close(self, drift: np.ndarray | None, **attributes: Any) -> None:
        """Close the record and print the tables; `drift` is that of the clocks, in s, [ranks]."""
        ledgers = {phase: each.mean for phase, each in self._ledgers.items() if each.number}
        if self._recorder:
            self._close_record(self._recorder, ledgers, drift, attributes)
        names, lines = [column.name for column in LEDGER], []
        for phase, (shares, step_s, least_s) in ledgers.items():
            by_rank = shares.reshape(*self._pipeline_config.layout.shape, len(LEDGER))
            by_stage = by_rank.mean(axis=(0, 2))
            shown = [name != "parts_s" or self._config.parts > 1 for name in names]
            columns = list(compress(names, shown))
            lines.append(ledger_table(phase, columns, by_stage[:, shown], step_s, least_s))
        lines.append(table(self._step_seconds))
        lines.append(
            f"peak memory: {gib(self._peaks.sum())} on {_count(len(self._peaks), 'rank')}, "
            f"{gib(self._peaks.max())} on the largest"
        )
        if self._config.record:
            lines.append(f"record: {self._config.record}")
        try:
            print_result("\n".join(lines))
        except RunError as error:
            self.note(f"warning: {error}")

    def _close_record(
        self,
        recorder: Recorder,
        ledgers: Mapping[Phase, Ledger],
        drift: np.ndarray | None,
        attributes: Mapping[str, Any],
    ) -> None:
        expand = self._group.expand_to_initial_ranks
        if drift is not None:
            recorder.add_ranks("trace", CLOCKS[-1], drift)
        for phase, each in ledgers.items():
            for column, values in zip(LEDGER, each.shares.T, strict=True):
                recorder.add_ranks(f"ledger/{phase}", column, expand(values))
        recorder.close(**attributes)


def _dependencies(
    config: PipelineConfig, phase: Phase, chunks: int
) -> list[tuple[Action, list[int]]]:
    programs = config.programs if phase is Phase.TRAIN else config.forward_programs
    return dependencies(programs(chunks))


def _first_lines(group: RankGroup, run: Run, start: Position) -> Iterator[str]:
    """Yield the lines to print before the first mini-batch."""
    config, forecast, ranks = group.config, run.forecast, run.ranks
    if group.rank_losses:
        done, lost = group.rank_losses[-1]
        if lost:
            yield (
                f"warning: lost after mini-batch {done}: rank{'s' * (len(lost) > 1)} "
                f"{', '.join(map(str, lost))} of {group.initial_size}. Continuing with "
                f"{_count(config.replicas, 'replica')} and mini-batches of "
                f"{_count(config.global_batch_size, 'image')}."
            )
        else:
            yield f"warning: MPI failed after mini-batch {done}: no rank lost. Continuing."
        yield _layout_line(config, run)
        return
    yield f"data: {run.dataset.description}"
    yield _layout_line(config, run)
    yield (
        f"memory: forecast peak {gib(forecast.shared)} {forecast.place}, "
        f"{gib(forecast.available)} "
        f"available; {gib(ranks['forecast_rss_bytes'].max())} on the largest rank"
    )
    if run.core_warning:
        yield run.core_warning
    if config.precision == "bf16" and not has_bfloat16_instructions():
        yield _SLOW_BFLOAT16
    if config.start:
        yield from (f"warning: checkpoint skipped: {reason}." for reason in config.start.skipped)
        yield from (f"note: {note}." for note in config.start.notes)
        yield f"start: {_start_line(config, config.start, start)}"
    elif config.resume:
        yield "start: no checkpoint yet, training from the beginning"
    num_images = run.dataset.num_images[Phase.TRAIN]
    if config.command == "train" and not config.steps:
        batch_size = config.global_batch_size
        left = images_left(num_images, 0, batch_size, drop_last=config.drop_last)
        steps = config.epochs * num_mini_batches(left, batch_size, 0, 0)
        if steps < FEW_STEPS:
            yield _LAGGING.format(steps)
    if config.command == "train" and smallest_micro_batch(config, num_images) == 1:
        yield _SINGLE_IMAGE.format(config.batch_size, config.chunks)


def _start_line(config: RunConfig, checkpoint: Checkpoint, start: Position) -> str:
    """Return which checkpoint a run starts from, where it stood, and whose it is."""
    line = str(checkpoint.path)
    if config.resume:
        line += f", epoch {start.epoch + 1}, {start.phase} step {start.step + 1}"
    if manifest := checkpoint.manifest:
        record = manifest.settings.get("record", "none")
        minutes = max(0.0, time.time() - manifest.created) / 60
        line += f" (of run {manifest.run:.8}, record {record}, written {minutes:.0f} min ago)"
    return line


def _layout_line(config: RunConfig, run: Run) -> str:
    ranks, pipeline_config = run.ranks, run.pipeline.config
    split = "|".join(map(str, pipeline_config.blocks_per_stage))
    if config.split_after:
        split += f", cut behind {', '.join(pipeline_config.cuts)}"
    threads = "/".join(map(str, sorted(set(ranks["threads"]))))
    hosts = _count(len(set(ranks["host"])), "host")
    parts = f" x {_count(config.parts, 'part')}" if config.parts > 1 else ""
    return (
        f"layout: {_count(config.stages, 'stage')} (blocks {split}) x "
        f"{_count(config.replicas, 'replica')}{parts} = "
        f"{_count(config.layout.ranks, 'rank')} on {hosts}, "
        f"threads per rank: {threads}; mini-batches of {_count(config.batch_size, 'image')} per "
        f"replica in {_count(config.chunks, 'micro-batch', 'es')}"
    )


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural * (number != 1)}"
