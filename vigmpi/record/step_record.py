from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from mpi4py import MPI
from numpy.typing import NDArray

from vigmpi import host
from vigmpi.comm.collectives import allgather_rows
from vigmpi.phase import Phase
from vigmpi.record.columns import LAYERS
from vigmpi.record.timings import TIMINGS, Span, seconds


class MiniBatch(Protocol):
    """Position and size of a mini-batch, as in `vigmpi.pipeline.batch.Batch`."""

    @property
    def phase(self) -> Phase: ...
    @property
    def epoch(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def num_images(self) -> int: ...


class Row(NamedTuple):
    """A mini-batch of a run, as a row of its record.

    Attributes:
        mini_batch: number of the mini-batch in the run.
        record: numbers of all present ranks.
        original_ranks: their ranks in the layout that the run started with.
        warm_up: true for the first mini-batch of a phase after a start or resume.
    """

    mini_batch: int
    record: "StepRecord"
    original_ranks: Sequence[int]
    warm_up: bool


@dataclass(frozen=True)
class StepRecord:
    """Numbers of one mini-batch, from the executor to the record's file.

    Attributes:
        phase, epoch, step: position of the mini-batch, as in `Position`.
        num_images: size of the global mini-batch.
        ranks: numbers of this rank, or of all ranks once gathered, with the fields of `rank_dtype`,
            [ranks].
        spans: spans of this rank.
    """

    phase: Phase
    epoch: int
    step: int
    num_images: int
    ranks: NDArray[np.void]
    spans: list[Span] = field(default_factory=list)

    @classmethod
    def begin(cls, batch: MiniBatch, num_layers: int) -> "StepRecord":
        """Return the record of a mini-batch that begins on this rank."""
        own = np.zeros(1, rank_dtype(num_layers))
        own["layers"] = own["raw_loss"] = own["raw_correct"] = np.nan
        own["finite"] = 1
        return cls(batch.phase, batch.epoch, batch.step, batch.num_images, own)

    def add_loss(self, loss: float, correct: int) -> None:
        """Add a micro-batch's share of the loss and its number of correct predictions."""
        self.ranks["loss"] += loss
        self.ranks["correct"] += correct

    def add_raw_weights(self, other: "StepRecord") -> None:
        """Add the results of the raw weights beside those of their moving averages."""
        for name in ("loss", "correct"):
            self.ranks[f"raw_{name}"] = other.ranks[name]

    def add_times(self, spans: Sequence[Span], layers: range, layer_seconds: np.ndarray) -> None:
        """Add the times of this rank.

        Args:
            layers: the layers that this rank runs.
            layer_seconds: seconds of their forward and backward passes, [layers, 2].
        """
        self.spans[:] = spans
        self.ranks["timings"] = seconds(spans)
        self.ranks["layers"][:, :, layers.start : layers.stop] = layer_seconds.T

    def gather(
        self, world: MPI.Comm, *, stop: bool, checkpoint: bool, recorded: int = 0
    ) -> "StepRecord":
        """Return the record with the numbers of all ranks. Collective.

        Args:
            stop, checkpoint: requests of this rank: to stop the run, to write a checkpoint.
            recorded: number of mini-batches that this rank has written to the run's record.
        """
        self.ranks["peak_rss_bytes"] = host.peak_rss_bytes()
        self.ranks["stop"], self.ranks["checkpoint"] = stop, checkpoint
        self.ranks["recorded"] = recorded
        rows = allgather_rows(world, self.ranks.view(np.float64))
        return replace(self, ranks=rows.view(self.ranks.dtype).ravel())

    @property
    def finite(self) -> bool:
        """True if the loss and, in training, all gradients are finite."""
        return bool(self.ranks["finite"].all())

    @property
    def loss(self) -> float:
        """Loss of the mini-batch: the sum of the ranks' shares."""
        # In rank order: numpy's sum depends on the number of terms, and so on that of stages.
        return float(sum(self.ranks["loss"].tolist()))

    @property
    def raw_loss(self) -> float:
        """Loss with the raw weights if `loss` is that of their moving averages, or NaN."""
        return float(sum(self.ranks["raw_loss"].tolist()))

    @property
    def raw_correct(self) -> float:
        """Number of correct predictions with the raw weights, or NaN."""
        return float(self.ranks["raw_correct"].sum())

    @property
    def correct(self) -> int:
        """Number of correct predictions."""
        return int(self.ranks["correct"].sum())

    def timing(self, name: str) -> NDArray[np.float64]:
        """Return a timing column, in seconds, [ranks]."""
        return self.ranks["timings"][:, list(TIMINGS).index(name)]

    def as_row(self, *, warm_up: bool) -> dict[str, Any]:
        """Return a value for each column of `STEPS`."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "phase": list(Phase).index(self.phase),
            "warm_up": warm_up,
            "num_images": self.num_images,
            "loss": self.loss,
            "accuracy": self.correct / self.num_images,
            "raw_loss": self.raw_loss,
            "raw_accuracy": self.raw_correct / self.num_images,
            "finite": self.finite and np.isfinite(self.loss),
        }


def rank_dtype(num_layers: int) -> np.dtype:
    """Return the type of one rank's numbers of a mini-batch; all of them are float64.

    Fields:
        loss, correct: its share of the loss and of the correct predictions (last stage only).
        raw_loss, raw_correct: the same with the raw weights if `loss` and `correct` are those of
            their moving averages, otherwise NaN.
        finite: 1 if the loss and, in training, all gradients are finite on all ranks.
        peak_rss_bytes: peak resident size so far.
        stop, checkpoint: 1 if it requests the end of the run, or a checkpoint.
        recorded: number of mini-batches that it has written to the run's record.
        timings: seconds, in the order of `TIMINGS`.
        layers: seconds of each layer, NaN if the rank does not run it, [len(LAYERS), layers].
    """
    scalars = (
        "loss",
        "correct",
        "raw_loss",
        "raw_correct",
        "finite",
        "peak_rss_bytes",
        "stop",
        "checkpoint",
        "recorded",
    )
    return np.dtype(
        [
            *((name, np.float64) for name in scalars),
            ("timings", np.float64, len(TIMINGS)),
            ("layers", np.float64, (len(LAYERS), num_layers)),
        ]
    )
