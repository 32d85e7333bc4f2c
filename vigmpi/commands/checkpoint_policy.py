"""Times at which a training run writes its checkpoints, and their retention."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vigmpi.checkpoint.folder import CheckpointFolder
from vigmpi.checkpoint.manifest import Manifest
from vigmpi.checkpoint.search import BEST, folder_of
from vigmpi.commands.provenance import effective_settings
from vigmpi.commands.rank_group import RankGroup
from vigmpi.commands.run import Run
from vigmpi.commands.run_log import RunLog
from vigmpi.errors import InputError
from vigmpi.pipeline.trainer import Trainer
from vigmpi.position import Position


class CheckpointPolicy:
    """Decides when a run writes checkpoints, and counts them.

    Attributes:
        folder: the folder that holds the checkpoints, and `best`, its subfolder for the best one.
        latest: the newest checkpoint written by this process, and `position`, its position.
        run: identifier of the run.
        difference: the tensor that differed between replicas when a checkpoint was due, so that
            none was written; empty if there was none.
        failure: error message of the last attempt, of the best checkpoint or of another one; empty
            if both succeeded.
        num_written: number of checkpoints written by this process.
        seconds: total time spent on checkpoints.
    """

    def __init__(self, group: RankGroup, run: Run, trainer: Trainer, log: RunLog) -> None:
        """Prepare the folder. Collective.

        Raises:
            InputError: if the folder holds the checkpoints of another run, or is not shared.
        """
        config = group.config
        self._steps, self._minutes = config.checkpoint_steps, config.checkpoint_minutes
        self._enabled = config.keep > 0
        self._trainer, self._activity, self._log = trainer, run.activity, log
        self.folder = config.checkpoint_dir or _default_folder(group, log)
        group.config = replace(config, checkpoint_dir=self.folder)  # also if ranks are lost
        self.best, self.run = self.folder / BEST, log.id
        self._checkpoints = CheckpointFolder(run.topology.world, self.folder, config.keep)
        self._best_checkpoint = CheckpointFolder(run.topology.world, self.best, 1)
        dataset, starts = run.dataset, self._begin(group) if self._enabled else 0
        self._manifest = Manifest(
            run=log.id,
            created=0.0,
            position=log.start,
            settings=effective_settings(group.initial_config, dataset, run.pipeline.config),
            model=config.model,
            model_config=run.model_config,
            class_names=dataset.class_names,
            normalization=run.augmentation.normalization,
            starts=starts,
        )
        self._steps_since, self._saved_at = 0, time.monotonic()
        self.position = None if group.rank_losses else log.start
        self.latest: Path | None = None
        self.difference = ""
        self._failures: dict[CheckpointFolder, str] = {}
        self.num_written, self.seconds = 0, 0.0

    def _begin(self, group: RankGroup) -> int:
        """Prepare both folders, and return the number of this start of the run. Collective."""
        continued = group.config.start.continued if group.config.start else None
        run = self.run if continued or group.committed else ""
        self._checkpoints.claim(patient=group.follows_a_loss)
        folders = self._checkpoints, self._best_checkpoint
        try:
            starts = [folder.begin(run, overwrite=group.config.overwrite) for folder in folders]
        except InputError:
            self.close()
            raise
        return 1 + max(*starts, continued.starts if continued else 0)

    def close(self) -> None:
        """Let other runs use the folder."""
        self._checkpoints.release()

    @property
    def failure(self) -> str:
        return next(iter(self._failures.values()), "")

    def overdue(self) -> bool:
        """Return True if the last checkpoint is too old by the clock of this rank."""
        return time.monotonic() - self._saved_at > 60 * self._minutes

    def due(self, *, trained: bool, overdue: bool) -> bool:
        """Return True if a checkpoint is due after this mini-batch.

        Args:
            overdue: the result of `overdue` on rank 0.
        """
        self._steps_since += trained
        return overdue or 0 < self._steps <= self._steps_since

    def save(self, position: Position) -> None:
        """Write a checkpoint; print a warning if that fails. Collective."""
        if self._enabled and (written := self._save(self._checkpoints, position, {})):
            self.latest, self.position = written, position
        self._steps_since, self._saved_at = 0, time.monotonic()

    def save_best(self, position: Position, results: Mapping[str, float]) -> bool:
        """Write the best checkpoint with its results, likewise; return whether it was written."""
        return self._save(self._best_checkpoint, position, results) is not None

    def _save(
        self, folder: CheckpointFolder, position: Position, results: Mapping[str, float]
    ) -> Path | None:
        """Write a checkpoint and return its path, or None if that fails."""
        start, settings = time.monotonic(), {**self._manifest.settings, **results}
        if difference := self._trainer.replica_difference():
            self.difference = difference
            return None
        manifest = replace(
            self._manifest, created=time.time(), position=position, settings=settings
        )
        self._log.flush()  # so that the record never lags behind a checkpoint
        written = None
        self._failures.pop(folder, None)
        try:
            with self._activity("checkpoint"):
                written = folder.save(self._trainer.shard(), manifest)
            self.num_written += 1
        except InputError as error:
            self._failures[folder] = str(error)
            self._log.note(f"warning: {error}")
        self.seconds += time.monotonic() - start
        return written


def _default_folder(group: RankGroup, log: RunLog) -> Path:
    """Return the folder from which a run is resumed with its record, otherwise the record's."""
    if log.continues_record and group.config.start:
        return group.config.start.folder
    assert log.record  # every training has one
    return folder_of(log.record)
