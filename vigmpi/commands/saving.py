import time
from dataclasses import replace
from pathlib import Path

from vigmpi.checkpoint.folder import CheckpointFolder
from vigmpi.checkpoint.manifest import SUFFIX, Manifest
from vigmpi.commands.about import settings_of
from vigmpi.commands.crew import Crew
from vigmpi.commands.run import Run
from vigmpi.commands.session import Session
from vigmpi.errors import InputError
from vigmpi.position import Position


class Saving:
    """When a run's checkpoints are written, and what that took.

    Attributes:
        folder: where they are.
        latest: the last one that was written, and `position`, where that was.
        failure: why the last try came to nothing.
        written, seconds: how many there were, and their time recovering_from_mpi_errors.
    """

    def __init__(self, crew: Crew, session: Session, run: Run) -> None:
        """Collective.

        Raises:
            InputError: the folder holds another run's.
        """
        config = crew.config
        self._steps, self._minutes = config.checkpoint_steps, config.checkpoint_minutes
        self._on = config.keep > 0
        self._trainer, self._activity = session.trainer, session.activity
        self._run = run
        self.folder = config.checkpoint_dir or run.output.with_suffix(SUFFIX)
        self._checkpoints = CheckpointFolder(session.topology.world, self.folder, config.keep)
        goes_on = crew.committed or (config.start and config.start.manifest)
        if self._on and not goes_on:
            self._checkpoints.begin(overwrite=config.overwrite)
        dataset = session.dataset
        self._about = Manifest(
            run=run.id,
            created=0.0,
            position=run.start,
            settings=settings_of(crew.first_config, dataset),
            image_size=dataset.image_size,
            class_names=dataset.class_names,
            normalization=session.augmentation.normalization,
        )
        self._since, self._saved_at = 0, time.monotonic()
        self.position = None if crew.losses else run.start
        self.latest: Path | None = None
        self.failure = ""
        self.written, self.seconds = 0, 0.0

    def overdue(self) -> bool:
        """Whether this rank's clock asks for one."""
        return time.monotonic() - self._saved_at > 60 * self._minutes

    def due(self, *, trained: bool, overdue: bool) -> bool:
        """Whether there should be one after this mini-batch.

        Args:
            overdue: what rank 0's clock said, on all ranks.
        """
        self._since += trained
        return overdue or 0 < self._steps <= self._since

    def save(self, position: Position) -> None:
        """Write one; where that fails, say so and go on with those that are there. Collective."""
        start = time.monotonic()
        if self._on:
            self._run.flush()  # so that the record is never behind a checkpoint
            with self._activity("checkpoint"):
                self._save(position)
        self._since, self._saved_at = 0, time.monotonic()
        self.seconds += self._saved_at - start

    def _save(self, position: Position) -> None:
        about = replace(self._about, created=time.time(), position=position)
        try:
            self.latest = self._checkpoints.save(self._trainer.state(), about)
            self.position, self.failure = position, ""
            self.written += 1
        except InputError as error:
            self.failure = str(error)
            self._run.note(f"warning: {error}")
