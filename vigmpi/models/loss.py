from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

from vigmpi.kernels.threads import one_torch_thread


class Loss(NamedTuple):
    """Loss, number of correctly classified images, and gradient of the logits."""

    value: float
    correct: int
    gradient: Tensor


@one_torch_thread()
def cross_entropy(logits: Tensor, labels: Tensor, num_images: int) -> Loss:
    """Return a micro-batch's share of the mean cross-entropy over `num_images` images.

    Args:
        logits: [images, classes].
        labels: [images], or probabilities of the classes, [images, classes], of which the largest
            counts as correct.
        num_images: size of the global mini-batch; the shares of its micro-batches, which may
            differ in size, add up to its mean.
    """
    logits = logits.detach().requires_grad_()
    if labels.ndim == 2:
        labels = labels.to(logits.dtype)
    share = F.cross_entropy(logits, labels, reduction="sum") / num_images
    share.backward()
    assert logits.grad is not None
    classes = labels if labels.ndim == 1 else labels.argmax(dim=1)
    correct = int((logits.argmax(dim=1) == classes).sum())
    return Loss(share.item(), correct, logits.grad)
