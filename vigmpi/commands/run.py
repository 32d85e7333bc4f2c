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
    """A session with its record: goes through phases and tells rank 0 of every mini-batch.

    Attributes:
        id: the run's, kept by those that go on from its checkpoints.
        output: its record; both are the same on all ranks.
        start: where it began this time.

    Raises:
        InputError: the record cannot be written (on all ranks alike).
    """

    def __init__(self, crew: Crew, session: Session, start: Position) -> None:
        config = crew.config
        self._world = world = session.topology.world
        self._session = session
        self.start = start
        self._warned = False
        about = config.start.manifest if config.start else None
        crew.run = self.id = _of_rank_0(
            world, crew.run or (about.run if about else uuid.uuid4().hex)
        )
        self.output = Path(_of_rank_0(world, str(config.record or _default_output(config))))
        crew.config = replace(config, record=self.output)
        crew.ranks = crew.ranks or session.ranks
        self._report = None
        with raise_collectively(world):
            if world.rank == 0:
                self._report = Report(crew, session, self.output, start)
        self._trace = None
        if config.trace:
            self._trace = Trace(session.topology, config.chunks, start.mini_batches)
        if self._report and self._trace:
            self._report.begin_trace(self._trace)

    def phase(
        self, start: Position, requests: Callable[[], Requests] = Requests
    ) -> Iterator[tuple[Position, StepResult, Rows]]:
        """What is left of a phase, mini-batch by mini-batch. Collective.

        Args:
            requests: what this rank would like to happen next, asked after each mini-batch.

        Yields:
            the position behind the mini-batch, what this rank knows of it, and all ranks' rows.
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
        """Tell the user."""
        if self._report:
            self._report.note(text)

    def warn_once(self, text: str) -> None:
        """Tell the user the first of many."""
        if not self._warned:
            self.note(f"warning: {text}")
        self._warned = True

    def flush(self) -> None:
        """Bring the record up to date."""
        if self._report:
            self._report.flush()

    def break_off(self) -> None:
        """Leave the record to those that go on. On this rank alone."""
        if self._report:
            self._report.break_off()

    def close(self, **attributes: Any) -> None:
        """End the record and show the closing tables. Collective."""
        drift = self._trace.drift() if self._trace else None
        if self._report:
            with self._session.activity("record"):
                self._report.close(drift, **attributes)


def _of_rank_0(world: MPI.Comm, text: str) -> str:
    return allgather_strings(world, text)[0]


def _default_output(config: RunConfig) -> Path:
    if config.resume and config.start and (record := config.start.record):
        return record
    job = os.environ.get("SLURM_JOB_ID") or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    return Path(f"vigmpi-{job}.h5")
