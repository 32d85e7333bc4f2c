from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from vigmpi.kernels.one_thread import on_one_thread
from vigmpi.models.layer import MicroBatch
from vigmpi.models.study.config import ViGConfig


class Head(nn.Module):
    """Pooling of all nodes, then a perceptron with one hidden layer."""

    def __init__(self, config: ViGConfig, node_sum: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.channels, config.head_hidden)
        self.fc2 = nn.Linear(config.head_hidden, config.num_classes)
        self._node_sum = node_sum
        self.takes_mean = config.readout == "mean"
        self._divisor = config.num_nodes if self.takes_mean else 1

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        """Map node features [images, channels, nodes] to logits [images, classes]."""
        weights = self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias
        [logits] = on_one_thread(self._logits, features, *weights)
        return logits

    def _logits(
        self, features: Tensor, a: Tensor, b: Tensor, v: Tensor, c: Tensor
    ) -> tuple[Tensor]:
        pooled = self._node_sum(features) / self._divisor
        return (F.linear(F.gelu(F.linear(pooled, a, b)), v, c),)
