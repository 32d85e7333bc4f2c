from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vigmpi.comm.reductions import GradientSum
from vigmpi.comm.topology import Topology
from vigmpi.comm.transport import Receiver, Route, Sender
from vigmpi.layout.layout import Layout
from vigmpi.models.layer import Boundary, Layer
from vigmpi.models.model import Model
from vigmpi.monitor.activity import Activity
from vigmpi.pipeline.batch import Batch
from vigmpi.pipeline.executor import Channels, Executor
from vigmpi.pipeline.running_statistics import RunningStatistics
from vigmpi.pipeline.stage import Stage
from vigmpi.pipeline.stopwatch import Stopwatch
from vigmpi.record.step_record import StepRecord
from vigmpi.schedule import SCHEDULES
from vigmpi.schedule.gpipe import forward_only
from vigmpi.schedule.program import (
    Program,
    make_forward_programs,
    make_programs,
    message_slots,
    num_actions,
    peak_in_flight,
)


@dataclass(frozen=True)
class PipelineConfig:
    """Configuration of a pipeline, the same on all ranks.

    Attributes:
        layout: arrangement of the ranks.
        layers: layers of the complete model.
        stages: indices of the layers on each stage.
        batch_size: images per mini-batch of one replica.
        schedule: key of `SCHEDULES`; None for forward passes only.
        layer_seconds: forward and backward seconds of each layer, [layers, 2], from which the
            stages were chosen; None if they were not measured.
    """

    layout: Layout
    layers: list[Layer]
    stages: list[range]
    batch_size: int
    schedule: str | None = "gpipe"
    layer_seconds: NDArray[np.float64] | None = None

    @property
    def cuts(self) -> list[str]:
        """Names of the layers behind which the pipeline is cut."""
        return [self.layers[stage.stop - 1].name for stage in self.stages[:-1]]

    def stage_layers(self, stage: int) -> list[Layer]:
        """Return the layers of a stage."""
        own = self.stages[stage]
        return self.layers[own.start : own.stop]

    def programs(self, chunks: int) -> list[Program]:
        """Return the training program of every stage."""
        assert self.schedule
        return make_programs(SCHEDULES[self.schedule], self.layout.stages, chunks)

    def forward_programs(self, chunks: int) -> list[Program]:
        """Return the evaluation program of every stage."""
        return make_forward_programs(forward_only, self.layout.stages, chunks)

    @cached_property
    def longest_programs(self) -> list[Program]:
        """Programs of a full mini-batch: of training, or of evaluation if nothing is trained."""
        programs = self.programs if self.schedule else self.forward_programs
        return programs(self.layout.chunks)

    @property
    def blocks_per_stage(self) -> list[int]:
        """Number of blocks on each stage."""
        return [sum(self.layers[index].is_block for index in stage) for stage in self.stages]

    @property
    def num_actions(self) -> int:
        """Largest number of actions of a stage in a step."""
        return num_actions(self.longest_programs)

    def max_sizes(self, replica: int) -> list[int]:
        """Return the sizes of a replica's micro-batches in a full mini-batch."""
        layout = self.layout
        sizes = layout.micro_batch_sizes(self.batch_size * layout.replicas)
        return list(layout.of_replica(sizes, replica))

    def peak_in_flight(self, stage: int) -> int:
        """Return the largest number of tapes that a stage holds at the same time."""
        return peak_in_flight(self.longest_programs[stage]) if self.schedule else 0

    def message_slots(self, boundary: int) -> int:
        """Return the number of buffers in each direction across the boundary behind a stage."""
        if not 0 <= boundary < self.layout.stages - 1:
            return 0
        return message_slots(self.longest_programs[boundary])


class Pipeline:
    """One rank's stage of a pipeline, its messages and their executor.

    Attributes:
        config: configuration that all ranks share.
        model: the layers of this rank's stage.
        stopwatch: recorder of the spans of the current step.
    """

    def __init__(
        self, topology: Topology, config: PipelineConfig, model: Model, activity: Activity
    ) -> None:
        self.topology = topology
        self.config = config
        self.model = model
        self.stopwatch = Stopwatch(activity)
        stage = topology.place.stage
        self._own_layers = config.stages[stage]
        self._stage = Stage(model, first=stage == 0)
        self._channels = _make_channels(topology, config)
        self._executor = Executor(
            self._stage, self._channels, self.stopwatch, counts_loss=topology.place.part == 0
        )
        self._programs: dict[tuple[bool, int], Program] = {}

    def begin_step(self) -> None:
        self.stopwatch.spans = []
        self._stage.layer_seconds[:] = 0

    def wait_for(self, pending: "Future[Batch]") -> Batch:
        """Return the data of the step once they have been loaded."""
        with self.stopwatch("data"):
            return pending.result()

    def train(
        self, batch: Batch, reduction: GradientSum, statistics: RunningStatistics
    ) -> StepRecord:
        """Run all forward and backward passes of a mini-batch and sum its gradients."""
        self.model.train()
        record = StepRecord.begin(batch, len(self.config.layers))
        program = self._program(len(batch.sizes), training=True)
        self._executor.train(program, batch, record, reduction, statistics)
        return record

    def evaluate(self, batch: Batch, model: Model) -> StepRecord:
        """Run all forward passes of a mini-batch, with the running statistics.

        Args:
            model: the layers of this stage, with these or other weights.
        """
        model.eval()
        record = StepRecord.begin(batch, len(self.config.layers))
        program = self._program(len(batch.sizes), training=False)
        self._executor.evaluate(program, batch, record, model)
        return record

    def finish_sends(self) -> None:
        with self.stopwatch("last sends"):
            self._channels.features_out.finish()
            self._channels.gradients_out.finish()

    def end_step(self, record: StepRecord) -> StepRecord:
        """Add the measured times to the record of the step."""
        record.add_times(self.stopwatch.spans, self._own_layers, self._stage.layer_seconds)
        return record

    def _program(self, chunks: int, *, training: bool) -> Program:
        key = training, chunks
        if key not in self._programs:
            make = self.config.programs if training else self.config.forward_programs
            self._programs[key] = make(chunks)[self.topology.place.stage]
        return self._programs[key]


def _make_channels(topology: Topology, config: PipelineConfig) -> Channels:
    """Allocate the message buffers of a stage; each boundary has its own range of tags."""
    stage, chunks = topology.place.stage, config.layout.chunks
    layers = config.stage_layers(stage)
    inputs, outputs = layers[0].inputs, layers[-1].outputs
    sizes = config.max_sizes(topology.place.replica)

    def route(number: int, boundary: Boundary, *, gradients: bool) -> Route:
        slots = config.message_slots(number) if config.schedule or not gradients else 0
        first_tag = (2 * number + gradients) * chunks
        return Route(first_tag, slots, sizes, boundary.memory_shape, boundary.numpy_dtype)

    comm, up, down = topology.pipeline, topology.previous_stage, topology.next_stage
    return Channels(
        inputs,
        outputs,
        Receiver(comm, up, route(stage - 1, inputs, gradients=False)),
        Sender(comm, down, route(stage, outputs, gradients=False)),
        Receiver(comm, down, route(stage, outputs, gradients=True)),
        Sender(comm, up, route(stage - 1, inputs, gradients=True)),
    )
