from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vigmpi.models.layer import MicroBatch
from vigmpi.phase import Phase


@dataclass(frozen=True)
class Batch:
    """One rank's data of a global mini-batch.

    Attributes:
        phase, epoch, step: position of the mini-batch, as in `Position`.
        done: fraction of the epoch that was processed before it: of its images or, if larger, of
            the mini-batches to which it is limited.
        num_images: size of the global mini-batch, over all replicas.
        all_sizes: sizes of all micro-batches of all replicas, 0 for empty ones.
        micro_batches: this replica's micro-batches, without empty ones.
        features: input of the first layer for each of them, on the first stage only.
        labels: labels of each of them, [images], or probabilities of their classes, [images,
            classes], on the last stage only.
    """

    phase: Phase
    epoch: int
    step: int
    done: float
    num_images: int
    all_sizes: Sequence[int]
    micro_batches: Sequence[MicroBatch]
    features: Sequence[Tensor] = ()
    labels: Sequence[Tensor] = ()

    @property
    def sizes(self) -> list[int]:
        """Sizes of this replica's micro-batches in images."""
        return [len(micro_batch.samples) for micro_batch in self.micro_batches]
