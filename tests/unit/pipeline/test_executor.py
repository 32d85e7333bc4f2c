import numpy as np
import torch
from torch import Tensor, nn

from vigmpi.models.layer import Boundary, Layer, MicroBatch
from vigmpi.models.model import Model
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase
from vigmpi.pipeline.batch import Batch
from vigmpi.pipeline.executor import Channels, Executor
from vigmpi.pipeline.running_statistics import RunningStatistics
from vigmpi.pipeline.stage import Stage
from vigmpi.pipeline.stopwatch import Stopwatch
from vigmpi.record.step_record import StepRecord
from vigmpi.schedule import SCHEDULES
from vigmpi.schedule.program import make_programs

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


class Receiver:
    """Receiver whose buffer is overwritten as soon as it is released."""

    def __init__(self) -> None:
        self.buffer = torch.from_numpy(VALUES).clone().numpy()  # aligned, so that no copy is made

    def begin_step(self, sizes: list[int]) -> None: ...

    def receive(self, number: int) -> np.ndarray:  # noqa: ARG002
        return self.buffer

    def release(self, number: int) -> None:  # noqa: ARG002
        self.buffer[:] = np.nan


class Sender:
    def __init__(self) -> None:
        self.sent: list[np.ndarray] = []

    def send(self, number: int, message: np.ndarray) -> None:  # noqa: ARG002
        self.sent.append(message.copy())


class Reduction:
    def start(self, layer: int) -> None: ...
    def finish(self) -> None: ...


class Unchanged(nn.Module):
    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        return features.view_as(features)


def test_a_gradient_that_a_layer_passes_on_outlives_the_buffer_it_was_received_in() -> None:
    boundary = Boundary((3,))
    layer = Layer("unchanged", Unchanged, boundary, boundary)
    model = Model([layer])
    senders = Sender(), Sender()
    channels = Channels(boundary, boundary, Receiver(), senders[0], Receiver(), senders[1])  # type: ignore[arg-type]
    executor = Executor(Stage(model, first=False), channels, Stopwatch(Activity(1)))
    batch = Batch(Phase.TRAIN, 0, 0, 0.0, 2, [2], [MicroBatch(np.arange(2), 0)])
    program = make_programs(SCHEDULES["gpipe"], 3, 1)[1]
    record = StepRecord.begin(batch, 1)
    executor.train(program, batch, record, Reduction(), RunningStatistics(model, 1))  # type: ignore[arg-type]
    for sender in senders:
        [message] = sender.sent
        assert torch.equal(torch.from_numpy(message), torch.from_numpy(VALUES))
