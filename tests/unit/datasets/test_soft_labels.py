import numpy as np
import torch
from torch.nn import functional as F

from vigmpi.datasets.soft_labels import SoftLabels
from vigmpi.models.loss import cross_entropy

RANDOM = np.random.default_rng()
LABELS, PARTNERS = RANDOM.integers(7, size=(2, 20))


def test_smoothed_labels_give_torchs_loss() -> None:
    probabilities = SoftLabels(smoothing=0.2).probabilities(LABELS, LABELS, 1.0, 7)
    logits = torch.tensor(RANDOM.standard_normal((20, 7)))
    loss = cross_entropy(logits, torch.from_numpy(probabilities), 20)
    expected = F.cross_entropy(logits, torch.from_numpy(LABELS), label_smoothing=0.2)
    np.testing.assert_allclose(loss.value, expected.item(), rtol=1e-6)
    assert loss.correct == cross_entropy(logits, torch.from_numpy(LABELS), 20).correct


def test_memory_does_not_grow_with_the_square_of_the_number_of_classes() -> None:
    probabilities = SoftLabels(smoothing=0.1).probabilities(LABELS, LABELS, 1.0, 200_000)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-4)
    assert (probabilities.argmax(axis=1) == LABELS).all()


def test_mixed_labels_give_the_weighted_losses_of_both() -> None:
    soft = SoftLabels(smoothing=0.1, mixup=0.4)
    probabilities = torch.from_numpy(soft.probabilities(LABELS, PARTNERS, 0.7, 7))
    logits = torch.tensor(RANDOM.standard_normal((20, 7)))
    own, other = (
        F.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=0.1).item()
        for labels in (LABELS, PARTNERS)
    )
    loss = cross_entropy(logits, probabilities, 20)
    np.testing.assert_allclose(loss.value, 0.7 * own + 0.3 * other, rtol=1e-6)


def test_the_weight_of_a_mini_batch_follows_the_beta_distribution() -> None:
    soft = SoftLabels(mixup=0.4, seed=5)
    weights = np.array(
        [soft.mixing_weight(epoch, step) for epoch in range(9) for step in range(500)]
    )
    assert weights[3] == SoftLabels(mixup=0.4, seed=5).mixing_weight(0, 3)
    assert weights[3] != SoftLabels(mixup=0.4, seed=6).mixing_weight(0, 3)
    assert len(set(weights)) == len(weights)
    for quantile in (0.1, 0.3, 0.5, 0.7, 0.9):
        beta = np.quantile(np.random.default_rng(0).beta(0.4, 0.4, size=10**6), quantile)
        assert abs((weights < beta).mean() - quantile) < 0.03
    assert SoftLabels(smoothing=0.1).mixing_weight(0, 3) == 1.0
