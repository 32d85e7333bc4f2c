"""Record and terminal output of a run, which rank 0 writes."""

import os
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mpi4py import MPI

from vigmpi.cli.config import RunConfig
from vigmpi.comm.collectives import allgather_strings, raise_collectively
from vigmpi.commands.rank_group import RankGroup
from vigmpi.commands.report import Report
from vigmpi.commands.run import Run
from vigmpi.position import Position
from vigmpi.record.step_record import StepRecord
from vigmpi.record.trace import Trace


class RunLog:
    """Log of a run on all ranks: gathers the numbers of each mini-batch for rank 0's report.

    Attributes:
        id: identifier of the run, inherited by runs that resume from its checkpoints.
        record: path of the record. Both are the same on all ranks.
        start: the position at which this process started.

    Raises:
        InputError: if the record cannot be written (on all ranks).
    """

    def __init__(self, group: RankGroup, run: Run, start: Position) -> None:
        config = group.config
        self._world = world = run.topology.world
        self._activity = run.activity
        self.start = start
        self._warned = False
        manifest = config.start.continued if config.start else None
        group.run = self.id = _broadcast(
            world, group.run or (manifest.run if manifest else uuid.uuid4().hex)
        )
        self.record = Path(_broadcast(world, str(config.record or _default_record(config))))
        group.config = replace(config, record=self.record)
        group.ranks = group.ranks or run.ranks
        self._report = None
        with raise_collectively(world):
            if world.rank == 0:
                self._report = Report(group, run, self.record, start)
        self._trace = None
        if config.trace:
            self._trace = Trace(world, run.pipeline.config.num_actions, start.mini_batches)
        if self._report and self._trace:
            self._report.begin_trace(self._trace)

    def begin_phase(self, start: Position) -> None:
        if self._report:
            self._report.begin(start)

    def add(self, own: StepRecord, *, stop: bool = False, checkpoint: bool = False) -> StepRecord:
        """Add a mini-batch and return the numbers of all ranks. Collective.

        Args:
            own: numbers of this rank.
            stop, checkpoint: requests of this rank: to stop the run, to write a checkpoint.
        """
        with self._activity("timings"):
            record = own.gather(self._world, stop=stop, checkpoint=checkpoint)
            spans = self._trace.gather(record.spans) if self._trace else None
        if self._report:
            with self._activity("record"):
                self._report.step(record, spans)
        return record

    def end_phase(self) -> None:
        if self._report:
            self._report.end()

    def note(self, text: str) -> None:
        """Print a line on rank 0."""
        if self._report:
            self._report.note(text)

    def warn_once(self, text: str) -> None:
        """Print the first of many warnings on rank 0."""
        if not self._warned:
            self.note(f"warning: {text}")
        self._warned = True

    def flush(self) -> None:
        """Write all finished mini-batches to the record."""
        if self._report:
            self._report.flush()

    def release_record(self) -> None:
        """Close the record on this rank, so that the surviving ranks can continue it."""
        if self._report:
            self._report.release_record()

    def close(self, **attributes: Any) -> None:
        """Close the record and print the closing tables. Collective."""
        drift = self._trace.drift() if self._trace else None
        if self._report:
            with self._activity("record"):
                self._report.close(drift, **attributes)


def _broadcast(world: MPI.Comm, text: str) -> str:
    """Return the text of rank 0. Collective."""
    return allgather_strings(world, text)[0]


def _default_record(config: RunConfig) -> Path:
    if config.resume and config.start and (record := config.start.record):
        return record
    job = os.environ.get("SLURM_JOB_ID") or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path(f"vigmpi-{job}.h5")
