import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np

from vigmpi.comm.collectives import all_equal, all_ranks, allgather_rows
from vigmpi.comm.reductions import GradientSum
from vigmpi.comm.topology import Topology
from vigmpi.comm.transport import Channel
from vigmpi.datasets import Dataset
from vigmpi.datasets.augmentation import Augmentation
from vigmpi.datasets.dataset import Indices
from vigmpi.datasets.order import fixed_permutation, micro_batches, mini_batches, shuffled
from vigmpi.layout.layout import Layout
from vigmpi.models.study.vig import ViG
from vigmpi.monitor.activity import Activity
from vigmpi.phase import Phase
from vigmpi.pipeline import state
from vigmpi.pipeline.adam import Adam
from vigmpi.pipeline.executor import Batch, Executor, Outcome
from vigmpi.pipeline.learning_rate import lr_factor
from vigmpi.pipeline.loader import Loader
from vigmpi.pipeline.stage import Stage
from vigmpi.pipeline.stopwatch import Stopwatch
from vigmpi.position import Position
from vigmpi.record.spans import Span
from vigmpi.schedule import SCHEDULES, Action, with_messages


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of training and evaluation.

    Attributes:
        limits: maximum number of mini-batches of each phase per epoch (0: no limit).
        batch_size: images per mini-batch of one replica.
        seed: seed of the sample order.
        epochs: total number of epochs, the length of the learning-rate schedule.
        lr: base learning rate of Adam.
        lr_schedule, warm_up: arguments of `lr_factor`.
        on_nonfinite: "ignore" to take steps even if the loss or a gradient is not finite.
        augmentation: augmentation of the training images.
    """

    limits: Mapping[Phase, int]
    batch_size: int
    seed: int
    epochs: int = 1
    lr: float = 1e-4
    lr_schedule: str = "constant"
    warm_up: float = 0.0
    on_nonfinite: str = "stop"
    augmentation: Augmentation = Augmentation()


class StepResult(NamedTuple):
    """One rank's results of a mini-batch.

    Attributes:
        num_images: size of the global mini-batch.
        loss, correct: contributions of this rank, as in `Outcome`.
        finite: true if loss and gradients are finite on all ranks (and in the test phase).
        layers: seconds of forward and backward passes of each layer on this rank, by name.
    """

    phase: Phase
    epoch: int
    step: int
    num_images: int
    loss: float
    correct: int
    finite: bool
    spans: list[Span]
    layers: dict[str, tuple[float, float]]


class Trainer:
    """Training and evaluation of one rank's stage."""

    def __init__(
        self,
        topology: Topology,
        layout: Layout,
        model: ViG,
        dataset: Dataset,
        config: TrainerConfig,
        activity: Activity,
    ) -> None:
        self._topology = topology
        self._layout = layout
        self._dataset = dataset
        self._config = config
        self.model = model
        place = topology.place
        first, last = place.stage == 0, place.stage == layout.stages - 1
        self._stage = Stage(model, layout.chunks, first=first)
        self._loader = Loader(
            dataset,
            config.augmentation,
            layout,
            place.replica,
            self._stage.moments.dtype,
            first=first,
            last=last,
        )
        self._stopwatch = Stopwatch(activity)
        buckets = [bucket.numpy() for bucket in self._stage.buckets]
        self._gradient_sum = GradientSum(topology.replicas, buckets)
        self._channels = self._make_channels()
        self._executor = Executor(self._stage, *self._channels, self._gradient_sum, self._stopwatch)
        self._optimizer = Adam(dict(model.named_parameters()), config.lr)

    def run(self, start: Position) -> Iterator[StepResult]:
        """Run the rest of a phase; every rank must consume every result.

        The weights do not change until the next result is requested.
        """
        config, phase, epoch = self._config, start.phase, start.epoch
        num_images = self._dataset.num_images[phase]
        train = phase is Phase.TRAIN
        order = shuffled(num_images, config.seed, epoch) if train else fixed_permutation(num_images)
        remaining = order[start.num_images :]
        size, limit = config.batch_size * self._layout.replicas, config.limits[phase]
        epoch_images = min(num_images, size * (limit or num_images))
        batches = mini_batches(remaining, size, limit, start.step)
        for mini_batch, future in self._loader.prefetch(phase, epoch, batches):
            self._set_lr((epoch + start.num_images / epoch_images) / config.epochs)
            yield self._step(phase, epoch, start.step, mini_batch, future)
            start = start.after(len(mini_batch))

    def shard(self) -> dict[str, np.ndarray]:
        """Return views of this rank's shard of a checkpoint.

        All replicas hold the same state, and each saves a part of it.
        """
        stage_state = self.stage_state()
        names = sorted(stage_state)[self._topology.place.replica :: self._layout.replicas]
        return {name: stage_state[name] for name in names}

    def stage_state(self) -> dict[str, np.ndarray]:
        """Return views of the weights, running statistics and optimizer state of this stage."""
        return state.model_state(self.model) | state.optimizer_state(self._optimizer)

    def shapes(self, *, optimizer: bool) -> dict[str, tuple[int, ...]]:
        """Return the shapes of this stage's state, by name."""
        arrays = self.stage_state() if optimizer else state.model_state(self.model)
        return {name: values.shape for name, values in arrays.items()}

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        """Load the state of this stage: all of `shapes`, with or without the optimizer."""
        state.load_model(self.model, values)
        if values.keys() >= self.shapes(optimizer=True).keys():
            state.load_optimizer(self._optimizer, values)

    def replicas_agree(self) -> bool:
        """Return whether this stage is bitwise identical in all replicas. Collective."""
        digest = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        return all_equal(self._topology.replicas, digest.digest())

    def _step(
        self, phase: Phase, epoch: int, step: int, samples: Indices, future: "Future[Batch]"
    ) -> StepResult:
        stopwatch = self._stopwatch
        stopwatch.spans = []
        self._stage.layer_seconds[:] = 0
        with stopwatch("step"):
            shares = micro_batches(samples, self._layout.replicas, self._layout.chunks)
            with stopwatch("data"):
                batch = future.result()
            self.model.train(phase is Phase.TRAIN)
            if phase is Phase.TRAIN:
                self._stage.zero_gradients()
            outcome = self._executor.run(phase, self._actions(phase, len(batch.sizes)), batch)
            finite = True
            if phase is Phase.TRAIN:
                finite = self._finish_gradients(outcome)
                if finite or self._config.on_nonfinite == "ignore":
                    self._update(np.array([len(m) for share in shares for m in share]))
            with stopwatch("last sends"):
                for channel in self._channels:
                    channel.finish()
        seconds = [(float(f), float(b)) for f, b in self._stage.layer_seconds]
        layers = dict(zip((layer.name for layer in self._stage.layers), seconds, strict=True))
        loss, correct = outcome.loss, outcome.correct
        num_images, spans = len(samples), stopwatch.spans
        return StepResult(phase, epoch, step, num_images, loss, correct, finite, spans, layers)

    def _set_lr(self, done: float) -> None:
        config = self._config
        factor = lr_factor(config.lr_schedule, min(done, 1.0), config.warm_up)
        self._optimizer.lr = config.lr * factor

    def _finish_gradients(self, outcome: Outcome) -> bool:
        """Finish the gradient sums; return whether they and the loss are finite on all ranks."""
        with self._stopwatch("gradient sum"):
            self._gradient_sum.finish()
        with self._stopwatch("agreement"):
            largest = [float(bucket.abs().max()) for bucket in self._stage.buckets]
            return all_ranks(
                self._topology.world, bool(np.isfinite([*largest, outcome.loss]).all())
            )

    def _update(self, sizes: Indices) -> None:
        with self._stopwatch("statistics"):
            moments = allgather_rows(self._topology.replicas, self._stage.moments.numpy())
            self._stage.update_running(sizes, moments.reshape(len(sizes), -1))
        with self._stopwatch("optimizer"):
            self._optimizer.step()

    @cache  # noqa: B019 (the trainer lives as long as the run)
    def _actions(self, phase: Phase, chunks: int) -> tuple[Action, ...]:
        stage, stages = self._topology.place.stage, self._layout.stages
        work = SCHEDULES[phase](stage, stages, chunks)
        return tuple(with_messages(work, stage, stages))

    def _make_channels(self) -> tuple[Channel, Channel]:
        """Make the channels of features (downstream) and of their gradients (upstream)."""
        layout, topology = self._layout, self._topology
        order = np.arange(self._config.batch_size * layout.replicas)
        share = micro_batches(order, layout.replicas, layout.chunks)[topology.place.replica]
        sizes = [len(samples) for samples in share]
        shape = self.model.config.boundary_shape
        dtype = self._stage.moments.numpy().dtype
        up, down = topology.previous_stage, topology.next_stage
        return (
            Channel(topology.pipeline, up, down, sizes, shape, shape, dtype),
            Channel(topology.pipeline, down, up, sizes, shape, shape, dtype),
        )
