from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw


class AdamW:
    """AdamW with its state keyed by weight names; without weight decay, it is Adam.

    `torch.optim.AdamW` imports torch's compiler, which is not used here and costs each rank a
    second and 50 MB (measured). The function that it calls does not.

    Sources: Kingma and Ba, "Adam", ICLR 2015; Loshchilov and Hutter, "Decoupled Weight Decay
    Regularization", ICLR 2019.

    Args:
        weight_decay: decay per step and unit of learning rate of the weights for which `decays`
            holds.

    Attributes:
        lr, beta1: learning rate and decay of the mean gradient in the next step.
        state: `exp_avg.NAME`, `exp_avg_sq.NAME` and `step.NAME` of each weight.
    """

    def __init__(
        self, weights: Mapping[str, nn.Parameter], lr: float, weight_decay: float = 0.0
    ) -> None:
        self.lr, self.beta1 = lr, 0.9
        self._weight_decay = weight_decay
        self._weights = [*weights.values()]
        self._decays = [decays(name, weight) for name, weight in weights.items()]
        self._exp_avg = [torch.zeros_like(weight) for weight in self._weights]
        self._exp_avg_sq = [torch.zeros_like(weight) for weight in self._weights]
        self._steps = [torch.zeros(()) for _ in self._weights]
        self.state: dict[str, Tensor] = {
            f"{quantity}.{name}": tensor
            for quantity, tensors in (
                ("exp_avg", self._exp_avg),
                ("exp_avg_sq", self._exp_avg_sq),
                ("step", self._steps),
            )
            for name, tensor in zip(weights, tensors, strict=True)
        }

    @property
    def num_steps(self) -> int:
        """Number of steps taken; 0 without any weight."""
        return int(self._steps[0]) if self._steps else 0

    def step(self) -> None:
        """Update all weights; each must have a gradient."""
        self._update(self._weight_decay, decayed=True)
        self._update(0.0, decayed=False)

    @torch.no_grad()
    def _update(self, weight_decay: float, *, decayed: bool) -> None:
        def chosen(tensors: list[Tensor]) -> list[Tensor]:
            return [t for t, each in zip(tensors, self._decays, strict=True) if each == decayed]

        weights = chosen([*self._weights])
        adamw(
            weights,
            [weight.grad for weight in weights if weight.grad is not None],
            chosen(self._exp_avg),
            chosen(self._exp_avg_sq),
            [],
            chosen(self._steps),
            amsgrad=False,
            beta1=self.beta1,
            beta2=0.999,
            lr=self.lr,
            weight_decay=weight_decay,
            eps=1e-8,
            maximize=False,
        )


def decays(name: str, weight: Tensor) -> bool:
    """Return True for the weights of products; biases, norms and position tables do not decay."""
    return weight.ndim > 1 and name.rpartition(".")[2] == "weight"
