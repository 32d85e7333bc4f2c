import numpy as np

from vigmpi.phase import Phase
from vigmpi.record.step_record import StepRecord, rank_dtype


def test_the_loss_does_not_depend_on_the_number_of_stages() -> None:
    """Ranks of earlier stages contribute zeros, which must not change the order of the sum."""
    random = np.random.default_rng()
    for _ in range(100):
        shares, losses = random.random(5), set()
        for stages in (1, 2, 4):
            ranks = np.zeros(5 * stages, rank_dtype(1))
            ranks["loss"][stages - 1 :: stages] = shares
            losses.add(StepRecord(Phase.TRAIN, 0, 0, 5, ranks).loss)
        assert len(losses) == 1
