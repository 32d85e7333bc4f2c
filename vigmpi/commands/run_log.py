"""Record and terminal output of a run, which rank 0 writes."""

import os
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from mpi4py import MPI

from vigmpi.checkpoint.search import folder_of
from vigmpi.comm.collectives import allgather_strings, raise_collectively
from vigmpi.commands.rank_group import RankGroup
from vigmpi.commands.report import Report
from vigmpi.commands.run import Run
from vigmpi.errors import InputError
from vigmpi.file_lock import FileLock
from vigmpi.phase import Phase
from vigmpi.position import Position
from vigmpi.record.recorder import not_writable
from vigmpi.record.step_record import Row, StepRecord
from vigmpi.record.trace import Trace


class RunLog:
    """Log of a run on all ranks: gathers the numbers of each mini-batch for rank 0's report.

    Attributes:
        id: identifier of the run, inherited by runs that resume from its checkpoints.
        record: path of the record, or None. Both are the same on all ranks.
        continues_record: true if it is that of the run that is resumed, by default.
        start: the position at which this process started.

    Raises:
        InputError: if the record is in use, or its folder cannot be written (on all ranks).
    """

    def __init__(self, group: RankGroup, run: Run, start: Position) -> None:
        config, self._group = group.config, group
        self._world = world = run.topology.world
        self._activity = run.activity
        self.start = start
        self._warned = False
        self._warm: set[Phase] = set()
        self._next = start.mini_batches
        manifest = config.start.continued if config.start else None
        group.run = self.id = _broadcast(
            world, group.run or (manifest.run if manifest else uuid.uuid4().hex)
        )
        self._run = run
        self._report: Report | None = None
        self._trace: Trace | None = None
        self._lock: FileLock | None = None
        self._reserved = False
        record, previous = config.record, None
        with raise_collectively(world):
            if world.rank == 0:
                if not record and config.command == "train":
                    previous = config.start.record if config.start else None
                    record = previous or _reserve_record()
                    self._reserved = not previous
                self._lock = _lock(record, patient=group.follows_a_loss) if record else None
        continued, name = _broadcast(world, f"{int(previous is not None)} {record or ''}").split(
            " ", 1
        )
        self.record = Path(name) if name else None
        self.continues_record = continued == "1"
        group.config = replace(config, record=self.record)
        group.ranks = group.ranks or run.ranks

    def open(self) -> None:
        """Create the record, or open that of the run that is resumed. Collective.

        Raises:
            InputError: if the record cannot be written (on all ranks).
        """
        config, run = self._group.config, self._run
        with raise_collectively(self._world):
            if self._world.rank == 0:
                overwrite = config.overwrite or self._reserved
                try:
                    self._report = Report(self._group, run, self.start, overwrite=overwrite)
                except InputError:
                    self.release_lock()
                    raise
        if config.trace:
            num_actions = run.pipeline.config.num_actions
            self._trace = Trace(self._world, num_actions, self.start.mini_batches)
        if self._report and self._trace:
            self._report.begin_trace(self._trace)
        if self._lock and not self._lock.supported:
            self.note(
                f"warning: file system without locks: {self.record}. A second run with the same "
                f"files would not be noticed."
            )

    def begin_phase(self, start: Position) -> None:
        if self._report:
            self._report.begin(start)

    def add(self, own: StepRecord, *, stop: bool = False, checkpoint: bool = False) -> StepRecord:
        """Add a mini-batch and return the numbers of all ranks. Collective.

        Args:
            own: numbers of this rank.
            stop, checkpoint: requests of this rank: to stop the run, to write a checkpoint.
        """
        recorded = self._report.num_recorded if self._report else 0
        with self._activity("timings"):
            record = own.gather(self._world, stop=stop, checkpoint=checkpoint, recorded=recorded)
            spans = self._trace.gather(record.spans) if self._trace else None
        ranks = self._group.original_ranks
        row = Row(self._next, record, ranks, warm_up=record.phase not in self._warm)
        self._warm.add(record.phase)
        self._next += 1
        if self._group.continues_on_failure:
            self._keep(row)
        if self._report:
            with self._activity("record"):
                self._report.step(row, spans)
        return record

    def _keep(self, row: Row) -> None:
        """Keep what a survivor would have to write if rank 0 were lost."""
        recorded = row.record.ranks["recorded"][0]
        rows = self._group.unrecorded
        rows[:] = [*(each for each in rows if recorded <= each.mini_batch < row.mini_batch), row]

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

    def release_lock(self) -> None:
        """Let other runs use the record."""
        if self._lock:
            self._lock.release()
        if self._reserved and not self._report and self.record:
            self.record.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the record."""
        self.release_record()
        if self._report and self.record:
            self.record.unlink(missing_ok=True)
        self.release_lock()

    def close(self, **attributes: Any) -> None:
        """Close the record and print the closing tables. Collective."""
        drift = self._trace.drift() if self._trace else None
        if self._report:
            with self._activity("record"):
                self._report.close(drift, **attributes)
        self.release_lock()


def _broadcast(world: MPI.Comm, text: str) -> str:
    """Return the text of rank 0. Collective."""
    return allgather_strings(world, text)[0]


def _lock(record: Path, *, patient: bool) -> FileLock:
    """Lock a record.

    Raises:
        InputError: if another run writes it, or if its folder cannot be written.
    """
    try:
        return FileLock(
            record.with_name(f".{record.name}.lock"),
            f"record in use: {record}",
            "Wait for the end of that run, or use --record FILE.",
            patient=patient,
        )
    except OSError as error:
        raise not_writable(record, error) from error


def _reserve_record() -> Path:
    """Return the default name of a new record, for which an empty file holds the place.

    Raises:
        InputError: if the working directory cannot be written.
    """
    job = os.environ.get("SLURM_JOB_ID") or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    for number in count(1):
        record = Path(f"vigmpi-{job}{f'-{number}' if number > 1 else ''}.h5")
        try:
            if not folder_of(record).exists():
                record.touch(exist_ok=False)
                break
        except FileExistsError:
            continue
        except OSError as error:
            raise not_writable(record, error) from error
    return record
