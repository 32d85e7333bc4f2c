from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vigmpi.comm.reductions import GradientSum
from vigmpi.comm.transport import Channel
from vigmpi.models.loss import cross_entropy
from vigmpi.phase import Phase
from vigmpi.pipeline.stage import Stage
from vigmpi.pipeline.stopwatch import Stopwatch
from vigmpi.schedule import Action, Kind


@dataclass
class Batch:
    """One rank's data of a mini-batch.

    Attributes:
        num_images: size of the global mini-batch, over all replicas.
        sizes: sizes of this replica's micro-batches, without empty ones.
        features: their node features [size, channels, nodes], on the first stage only.
        labels: their labels [size], on the last stage only.
    """

    num_images: int
    sizes: Sequence[int]
    features: Sequence[Tensor] = ()
    labels: Sequence[Tensor] = ()


@dataclass
class Outcome:
    """Contribution of a rank to a mini-batch's loss and correct predictions (last stage only)."""

    loss: float = 0.0
    correct: int = 0


@dataclass
class _Tensors:
    """Tensors passed between the actions of a step, by micro-batch."""

    inputs: dict[int, Tensor] = field(default_factory=dict)
    outputs: dict[int, Tensor] = field(default_factory=dict)
    output_gradients: dict[int, Tensor] = field(default_factory=dict)
    input_gradients: dict[int, Tensor | None] = field(default_factory=dict)


class Executor:
    """Interpreter of any schedule's actions for one stage."""

    def __init__(
        self,
        stage: Stage,
        features: Channel,
        gradients: Channel,
        gradient_sum: GradientSum,
        stopwatch: Stopwatch,
    ) -> None:
        self._stage = stage
        self._features = features
        self._gradients = gradients
        self._gradient_sum = gradient_sum
        self._stopwatch = stopwatch
        self._calls = {
            Kind.RECEIVE_FEATURES: self._receive_features,
            Kind.SEND_FEATURES: self._send_features,
            Kind.RECEIVE_GRADIENTS: self._receive_gradients,
            Kind.BACKWARD: self._backward,
            Kind.SEND_GRADIENTS: self._send_gradients,
        }
        self._forwards = {Phase.TRAIN: self._train_forward, Phase.TEST: self._test_forward}

    def run(self, phase: Phase, actions: Iterable[Action], batch: Batch) -> Outcome:
        """Run one step; its last sends may still be pending on return."""
        self._batch = batch
        self._tensors = _Tensors(inputs=dict(enumerate(batch.features)))
        self._outcome = Outcome()
        self._features.post_receives(batch.sizes)
        if phase is Phase.TRAIN:
            self._gradients.post_receives(batch.sizes)
        calls = self._calls | {Kind.FORWARD: self._forwards[phase]}
        for action in actions:
            with self._stopwatch(action.kind, action.micro_batch):
                calls[action.kind](action.micro_batch)
        return self._outcome

    def _receive_features(self, i: int) -> None:
        self._tensors.inputs[i] = torch.from_numpy(self._features.receive(i))

    def _train_forward(self, i: int) -> None:
        self._finish_forward(i, self._stage.forward(i, self._tensors.inputs.pop(i)))

    def _test_forward(self, i: int) -> None:
        self._finish_forward(i, self._stage.evaluate(self._tensors.inputs.pop(i)))

    def _finish_forward(self, i: int, output: Tensor) -> None:
        if not self._batch.labels:
            self._tensors.outputs[i] = output
            return
        loss = cross_entropy(output, self._batch.labels[i], self._batch.num_images)
        self._outcome.loss += loss.value
        self._outcome.correct += loss.correct
        self._tensors.output_gradients[i] = loss.gradient

    def _send_features(self, i: int) -> None:
        self._features.send(i, self._tensors.outputs.pop(i).numpy())

    def _receive_gradients(self, i: int) -> None:
        self._tensors.output_gradients[i] = torch.from_numpy(self._gradients.receive(i))

    def _backward(self, i: int) -> None:
        last = i == len(self._batch.sizes) - 1
        layer_done = self._gradient_sum.start if last else _do_nothing
        gradient = self._tensors.output_gradients.pop(i)
        self._tensors.input_gradients[i] = self._stage.backward(i, gradient, layer_done)

    def _send_gradients(self, i: int) -> None:
        gradient = self._tensors.input_gradients.pop(i)
        assert gradient is not None
        self._gradients.send(i, gradient.numpy())


def _do_nothing(layer: int) -> None:
    """Ignore a layer to whose gradients later micro-batches will add."""
