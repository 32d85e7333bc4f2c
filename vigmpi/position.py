from typing import NamedTuple

from vigmpi.phase import Phase


class Position(NamedTuple):
    """Progress of a run.

    Attributes:
        mini_batches: number finished since the start of the run, in both phases; each is a row
            of the record.
        epoch, phase: epoch, counted from 0, and phase of the next mini-batch.
        step, num_images: numbers of mini-batches and images finished in this phase and epoch.
    """

    mini_batches: int = 0
    epoch: int = 0
    phase: Phase = Phase.TRAIN
    step: int = 0
    num_images: int = 0

    def after(self, num_images: int) -> "Position":
        """Return the position after one more mini-batch of `num_images` images."""
        return self._replace(
            mini_batches=self.mini_batches + 1,
            step=self.step + 1,
            num_images=self.num_images + num_images,
        )

    def next_phase(self) -> "Position":
        """Return the start of the next phase: the test of this epoch, or the next epoch."""
        if self.phase is Phase.TRAIN:
            return Position(self.mini_batches, self.epoch, Phase.TEST)
        return Position(self.mini_batches, self.epoch + 1)
