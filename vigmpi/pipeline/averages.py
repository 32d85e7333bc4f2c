import copy

import torch

from vigmpi.models.model import Model


class Averages:
    """Exponential moving averages of the weights and running statistics of a stage.

    After step t, average = d average + (1 - d) value with d = min(decay, t / (t + 9)). The initial
    values therefore lose their influence within a few steps (as in TensorFlow's
    ExponentialMovingAverage).

    Args:
        model: the layers of this rank's stage.
        decay: the limit of d, in (0, 1).

    Attributes:
        model: a copy of the model with the averages as weights and running statistics.
        state: the averages, by the names of the model's tensors.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self._decay = decay
        fixed = {name: p for name, p in model.named_parameters() if not p.requires_grad}
        self.model = copy.deepcopy(model, {id(table): table for table in fixed.values()})
        self._values = {
            name: value
            for name, value in model.state_dict().items()
            if name not in fixed and value.is_floating_point()
        }
        copies = self.model.state_dict()
        self.state = {name: copies[name] for name in self._values}

    @torch.no_grad()
    def update(self, num_steps: int) -> None:
        """Add the values after this number of steps."""
        decay = min(self._decay, num_steps / (num_steps + 9))
        for name, value in self._values.items():
            self.state[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def reset(self) -> None:
        """Set the averages to the current values."""
        for name, value in self._values.items():
            self.state[name].copy_(value)
