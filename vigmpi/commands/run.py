"""Execution of a run's phases, with one row of the record per mini-batch."""

import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mpi4py import MPI

from vigmpi.cli.config import RunConfig
from vigmpi.comm.collectives import allgather_rows, allgather_strings, raise_collectively
from vigmpi.commands.crew import Crew
from vigmpi.commands.report import Report
from vigmpi.commands.row import Requests, Rows, pack, unpack
from vigmpi.commands.session import Session
from vigmpi.pipeline.trainer import StepResult
from vigmpi.position import Position
from vigmpi.record.trace import Trace


class Run:
    """A session and its record, which rank 0 writes.

    Attributes:
        id: identifier of the run, inherited by runs that resume from its checkpoints.
        record: path of the record. Both are the same on all ranks.
        start: the position at which this process started.

    Raises:
        InputError: if the record cannot be written (on all ranks).
    """

    def __init__(self, crew: Crew, session: Session, start: Position) -> None:
        config = crew.config
        self._world = world = session.topology.world
        self._session = session
        self.start = start
        self._warned = False
        manifest = config.start.manifest if config.start else None
        crew.run = self.id = _broadcast(
            world, crew.run or (manifest.run if manifest else uuid.uuid4().hex)
        )
        self.record = Path(_broadcast(world, str(config.record or _default_record(config))))
        crew.config = replace(config, record=self.record)
        crew.ranks = crew.ranks or session.ranks
        self._report = None
        with raise_collectively(world):
            if world.rank == 0:
                self._report = Report(crew, session, self.record, start)
        self._trace = None
        if config.trace:
            self._trace = Trace(session.topology, config.chunks, start.mini_batches)
        if self._report and self._trace:
            self._report.begin_trace(self._trace)

    def phase(
        self, start: Position, requests: Callable[[], Requests] = Requests
    ) -> Iterator[tuple[Position, StepResult, Rows]]:
        """Run the remaining mini-batches of a phase. Collective.

        Args:
            requests: called after each mini-batch for the requests of this rank.

        Yields:
            The position after a mini-batch, its result on this rank, and the rows of all ranks.
        """
        names, activity = self._session.model.config.layer_names, self._session.activity
        if self._report:
            self._report.begin(start)
        for result in self._session.trainer.run(start):
            with activity("timings"):
                rows = unpack(allgather_rows(self._world, pack(result, names, requests())))
                spans = self._trace.gather(result.spans) if self._trace else None
            if self._report:
                with activity("record"):
                    self._report.step(result, rows, spans)
            start = start.after(result.num_images)
            yield start, result, rows
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
            with self._session.activity("record"):
                self._report.close(drift, **attributes)


def _broadcast(world: MPI.Comm, text: str) -> str:
    """Return the text of rank 0. Collective."""
    return allgather_strings(world, text)[0]


def _default_record(config: RunConfig) -> Path:
    if config.resume and config.start and (record := config.start.record):
        return record
    job = os.environ.get("SLURM_JOB_ID") or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path(f"vigmpi-{job}.h5")
