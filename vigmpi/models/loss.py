from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F


class Loss(NamedTuple):
    value: float
    correct: int
    gradient: Tensor


def cross_entropy(logits: Tensor, labels: Tensor, num_images: int) -> Loss:
    """A micro-batch's share of the mean cross-entropy over `num_images` images.

    Args:
        logits: [micro-batch, classes].
        labels: [micro-batch].
        num_images: of the whole global mini-batch, so that the shares add up to its mean whatever
            the sizes of the micro-batches.

    Returns:
        the share, how many of the logits are right, and the gradient [micro-batch, classes].
    """
    logits = logits.detach().requires_grad_()
    share = F.cross_entropy(logits, labels, reduction="sum") / num_images
    share.backward()
    assert logits.grad is not None
    correct = int((logits.argmax(dim=1) == labels).sum())
    return Loss(share.item(), correct, logits.grad)
