from typing import NamedTuple

from vigmpi.phase import Phase


class Position(NamedTuple):
    """How far a run has come.

    Attributes:
        mini_batches: done since the run began, of both phases: the rows of its record.
        epoch, phase: of the mini-batch that comes next.
        step, num_images: done of that phase of that epoch.
    """

    mini_batches: int = 0
    epoch: int = 0
    phase: Phase = Phase.TRAIN
    step: int = 0
    num_images: int = 0

    def after(self, num_images: int) -> "Position":
        """When one more mini-batch, of so many images, is done."""
        return self._replace(
            mini_batches=self.mini_batches + 1,
            step=self.step + 1,
            num_images=self.num_images + num_images,
        )

    def next_phase(self) -> "Position":
        if self.phase is Phase.TRAIN:
            return Position(self.mini_batches, self.epoch, Phase.TEST)
        return Position(self.mini_batches, self.epoch + 1)
