"""The checkpoint with the best accuracy on held-out images, which is kept apart from the others."""

from mpi4py import MPI

from vigmpi.checkpoint.search import checkpoints
from vigmpi.comm.collectives import allgather_strings
from vigmpi.commands.checkpoint_policy import CheckpointPolicy
from vigmpi.phase import Phase
from vigmpi.position import Position
from vigmpi.record.step_record import StepRecord

_ACCURACY = "held_out_accuracy"  # key of a manifest's settings


class BestCheckpoint:
    """Best checkpoint so far of a run with `--holdout`. All methods are collective.

    Args:
        enabled: whether the run holds images out and writes checkpoints.
    """

    def __init__(self, policy: CheckpointPolicy, world: MPI.Intracomm, *, enabled: bool) -> None:
        self._policy = policy
        self._enabled = enabled
        self._accuracy = _previous(policy, world) if enabled else 0.0
        self._complete = False
        self._correct = self._num_images = 0

    def begin(self, start: Position) -> None:
        """Begin a phase; a test that another process began is not counted."""
        self._complete = self._enabled and start.phase is Phase.TEST and start.step == 0
        self._correct = self._num_images = 0

    def add(self, record: StepRecord) -> None:
        """Add a mini-batch's numbers of all ranks."""
        self._correct += record.correct
        self._num_images += record.num_images

    def save(self, position: Position) -> None:
        """Save a checkpoint after a test that was better than all before."""
        accuracy = self._correct / max(self._num_images, 1)
        better = self._complete and accuracy > self._accuracy
        if better and self._policy.save_best(position, {_ACCURACY: accuracy}):
            self._accuracy = accuracy

    @property
    def summary(self) -> str:
        """A line about the best accuracy; empty if there is none."""
        if not self._accuracy:
            return ""
        return f"best accuracy on held-out images: {self._accuracy:.2%} ({self._policy.best})"


def _previous(policy: CheckpointPolicy, world: MPI.Intracomm) -> float:
    """Return the accuracy of the best checkpoint that rank 0 finds, from earlier in the run."""
    found, _ = checkpoints([policy.best]) if world.rank == 0 else ([], [])
    own = [manifest for _, manifest in found if manifest.run == policy.run]
    accuracy = max((float(each.settings.get(_ACCURACY, 0.0)) for each in own), default=0.0)
    return float.fromhex(allgather_strings(world, accuracy.hex())[0])
