from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from vigmpi.comm.reductions import GradientSum
from vigmpi.comm.transport import Receiver, Sender
from vigmpi.models.layer import Boundary
from vigmpi.models.loss import cross_entropy
from vigmpi.models.model import Model
from vigmpi.pipeline.batch import Batch
from vigmpi.pipeline.running_statistics import RunningStatistics
from vigmpi.pipeline.stage import Stage, ignore_layer
from vigmpi.pipeline.stopwatch import Stopwatch
from vigmpi.record.step_record import StepRecord
from vigmpi.schedule.action import Action, Kind


class Channels(NamedTuple):
    """Both directions across the two boundaries of a stage."""

    inputs: Boundary
    outputs: Boundary
    features_in: Receiver
    features_out: Sender
    gradients_in: Receiver
    gradients_out: Sender


class Executor:
    """Interpreter of the actions of any schedule for one stage.

    Args:
        counts_loss: whether this rank records the loss, which all parts of the last stage know.
    """

    def __init__(
        self, stage: Stage, channels: Channels, stopwatch: Stopwatch, *, counts_loss: bool = True
    ) -> None:
        self._counts_loss = counts_loss
        self._stage = stage
        self._channels = channels
        self._stopwatch = stopwatch

    def train(
        self,
        program: Iterable[Action],
        batch: Batch,
        record: StepRecord,
        reduction: GradientSum,
        statistics: RunningStatistics,
    ) -> None:
        """Run a training step; its last sends may still be pending on return."""
        losses = record if self._counts_loss else None
        step = _TrainingStep(self._stage, self._channels, batch, losses, reduction, statistics)
        self._channels.gradients_in.begin_step(batch.sizes)
        self._run(program, step)

    def evaluate(
        self, program: Iterable[Action], batch: Batch, record: StepRecord, model: Model
    ) -> None:
        """Run forward passes of a model only; the last sends may still be pending on return."""
        losses = record if self._counts_loss else None
        self._run(program, _Step(self._stage.of(model), self._channels, batch, losses))

    def _run(self, program: Iterable[Action], step: "_Step") -> None:
        self._channels.features_in.begin_step(step.batch.sizes)
        for action in program:
            with self._stopwatch(action.kind, action.micro_batch):
                step.calls[action.kind](action.micro_batch)


class _Step:
    """Actions of a step without gradients, and the tensors passed between them.

    Args:
        losses: record to which the losses are added, if any.
    """

    def __init__(
        self, stage: Stage, channels: Channels, batch: Batch, losses: StepRecord | None
    ) -> None:
        self.batch = batch
        self._stage, self._channels, self._losses = stage, channels, losses
        self._inputs = dict(enumerate(batch.features))
        self._outputs: dict[int, Tensor] = {}
        self.calls = {
            Kind.RECEIVE_FEATURES: self._receive_features,
            Kind.FORWARD: self._forward,
            Kind.SEND_FEATURES: self._send_features,
        }

    def _receive_features(self, i: int) -> None:
        message = self._channels.features_in.receive(i)
        self._inputs[i] = self._channels.inputs.from_message(message)

    def _forward(self, i: int) -> None:
        output = self._stage.evaluate(self._inputs.pop(i), self.batch.micro_batches[i])
        self._finish_forward(i, output)
        if self.batch.labels:
            self._channels.features_in.release(i)

    def _finish_forward(self, i: int, output: Tensor) -> Tensor | None:
        """Keep the output to be sent; on the last stage, return the gradient of the loss."""
        if not self.batch.labels:
            self._outputs[i] = output
            return None
        loss = cross_entropy(output, self.batch.labels[i], self.batch.num_images)
        if self._losses is not None:
            self._losses.add_loss(loss.value, loss.correct)
        return loss.gradient

    def _send_features(self, i: int) -> None:
        message = self._channels.outputs.to_message(self._outputs.pop(i))
        self._channels.features_out.send(i, message)
        self._release_input(i)

    def _release_input(self, i: int) -> None:
        """Free the receive buffer, of which the output that was sent may be a view."""
        self._channels.features_in.release(i)


class _TrainingStep(_Step):
    def __init__(
        self,
        stage: Stage,
        channels: Channels,
        batch: Batch,
        losses: StepRecord | None,
        reduction: GradientSum,
        statistics: RunningStatistics,
    ) -> None:
        super().__init__(stage, channels, batch, losses)
        self._reduction = reduction
        self._statistics = statistics
        self._output_gradients: dict[int, Tensor] = {}
        self._input_gradients: dict[int, Tensor] = {}
        self.calls |= {
            Kind.RECEIVE_GRADIENTS: self._receive_gradients,
            Kind.BACKWARD: self._backward,
            Kind.SEND_GRADIENTS: self._send_gradients,
            Kind.REDUCE: self._reduce,
        }

    def _forward(self, i: int) -> None:
        output = self._stage.forward(i, self._inputs.pop(i), self.batch.micro_batches[i])
        self._statistics.keep(i)
        gradient = self._finish_forward(i, output)
        if gradient is not None:
            self._output_gradients[i] = gradient

    def _release_input(self, i: int) -> None:
        """Keep the receive buffer: the tape needs it until `_backward`."""

    def _receive_gradients(self, i: int) -> None:
        message = self._channels.gradients_in.receive(i)
        self._output_gradients[i] = self._channels.outputs.from_message(message)

    def _backward(self, i: int) -> None:
        last = i == len(self.batch.micro_batches) - 1
        layer_done = self._reduction.start if last else ignore_layer
        received = self._output_gradients.pop(i)
        gradient = self._stage.backward(i, received, layer_done)
        if gradient is not None and _same_memory(gradient, received):
            gradient = gradient.clone()  # the buffer of `received` is about to be reused
        # Both neighbours may now send another micro-batch: this one's buffers are free.
        self._channels.gradients_in.release(i)
        self._channels.features_in.release(i)
        if gradient is not None:
            self._input_gradients[i] = gradient

    def _send_gradients(self, i: int) -> None:
        gradient = self._input_gradients.pop(i)
        self._channels.gradients_out.send(i, self._channels.inputs.to_message(gradient))

    def _reduce(self, i: int) -> None:  # noqa: ARG002
        self._reduction.finish()


def _same_memory(a: Tensor, b: Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
