from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


class Adam:
    """Adam with torch's default settings and its state keyed by weight names.

    `torch.optim.Adam` imports torch's compiler, which is not used here and costs each rank a
    second and 50 MB (measured). The function that it calls does not.

    Source: Kingma and Ba, "Adam", ICLR 2015.

    Attributes:
        lr: learning rate of the next step.
        state: `exp_avg.NAME`, `exp_avg_sq.NAME` and `step.NAME` of each weight.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], lr: float) -> None:
        self.lr = lr
        self._weights = list(weights.values())
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

    @torch.no_grad()
    def step(self) -> None:
        """Update all weights; each must have a gradient."""
        adam(
            [*self._weights],
            [weight.grad for weight in self._weights if weight.grad is not None],
            self._exp_avg,
            self._exp_avg_sq,
            [],
            self._steps,
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=self.lr,
            weight_decay=0.0,
            eps=1e-8,
            maximize=False,
        )
