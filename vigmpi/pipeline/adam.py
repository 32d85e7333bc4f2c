from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim.adam import adam


class Adam:
    """torch's Adam, as `torch.optim.Adam` has it by default, by the names of the weights.

    The class of torch imports its compiler when it is made, which takes each rank a second and
    50 MB (measured) for something that nothing here uses; its function does not.

    Source: Kingma and Ba, "Adam", ICLR 2015.

    Attributes:
        lr: learning rate of the next step.
        state: moments and step counts, as `<what>.<name of the weight>`.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], lr: float) -> None:
        self.lr = lr
        self._weights = list(weights.values())
        self._exp_avg = [torch.zeros_like(weight) for weight in self._weights]
        self._exp_avg_sq = [torch.zeros_like(weight) for weight in self._weights]
        self._steps = [torch.zeros(()) for _ in self._weights]
        self.state: dict[str, Tensor] = {
            f"{what}.{name}": tensor
            for what, tensors in (
                ("exp_avg", self._exp_avg),
                ("exp_avg_sq", self._exp_avg_sq),
                ("step", self._steps),
            )
            for name, tensor in zip(weights, tensors, strict=True)
        }

    @torch.no_grad()
    def step(self) -> None:
        """Every weight must have a gradient."""
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
