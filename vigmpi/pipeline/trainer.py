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
    """What an epoch is made of.

    Attributes:
        limits: mini-batches of each phase at most (0: all there are).
        batch_size: images of a replica's mini-batch.
        seed: of the sample order.
        epochs: that the run is meant to have.
        lr: learning rate of Adam, `lr_schedule` and `warm_up` what becomes of it.
        on_nonfinite: "ignore" where a step with such a loss or gradients is to be taken.
        augmentation: of the images.
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
    """What one rank knows of a mini-batch.

    Attributes:
        loss, correct: its shares.
        finite: whether all ranks' gradients and loss were (of training).
        layers: forward and backward seconds of each block, and of the readout, that it runs.
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
    """One rank's layer of training a model in a layout."""

    def __init__(
        self,
        topology: Topology,
        layout: Layout,
        model: ViG,
        dataset: Dataset,
        plan: TrainerConfig,
        activity: Activity,
    ) -> None:
        self._topology = topology
        self._layout = layout
        self._dataset = dataset
        self._plan = plan
        self.model = model
        place = topology.place
        first, last = place.stage == 0, place.stage == layout.stages - 1
        self._stage = Stage(model, layout.chunks, first=first)
        self._loader = Loader(
            dataset,
            plan.augmentation,
            layout,
            place.replica,
            self._stage.moments.dtype,
            first=first,
            last=last,
        )
        self._stopwatch = Stopwatch(activity)
        self._sums = GradientSum(topology.replicas, [b.numpy() for b in self._stage.buckets])
        self._channels = self._make_channels()
        self._executor = Executor(self._stage, *self._channels, self._sums, self._stopwatch)
        self._optimizer = Adam(dict(model.named_parameters()), plan.lr)

    def run(self, start: Position) -> Iterator[StepResult]:
        """Go through what is left of a phase; every rank must take every result.

        The weights do not change while a result is looked at.
        """
        plan, phase, epoch = self._plan, start.phase, start.epoch
        samples = self._dataset.samples[phase]
        train = phase is Phase.TRAIN
        order = shuffled(samples, plan.seed, epoch) if train else fixed_permutation(samples)
        rest = order[start.num_images :]
        images = plan.batch_size * self._layout.replicas
        left = mini_batches(rest, images, plan.limits[phase], start.step)
        in_epoch = min(samples, images * (plan.limits[phase] or samples))
        for mini_batch, batch in self._loader.prefetch(phase, epoch, left):
            self._set_lr((epoch + start.num_images / in_epoch) / plan.epochs)
            yield self._step(phase, epoch, start.step, mini_batch, batch)
            start = start.after(len(mini_batch))

    def state(self) -> dict[str, np.ndarray]:
        """This rank's share of what a checkpoint holds: weights, statistics, optimizer.

        Replicas hold the same, so they share it out.
        """
        whole = self.whole_state()
        names = sorted(whole)[self._topology.place.replica :: self._layout.replicas]
        return {name: whole[name] for name in names}

    def whole_state(self) -> dict[str, np.ndarray]:
        """Weights, running statistics and optimizer of this stage; views, not copies."""
        return state.model_state(self.model) | state.optimizer_state(self._optimizer)

    def shapes(self, *, optimizer: bool) -> dict[str, tuple[int, ...]]:
        """Of what this stage holds, by name."""
        whole = state.model_state(self.model)
        if optimizer:
            whole |= state.optimizer_state(self._optimizer)
        return {name: values.shape for name, values in whole.items()}

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        """Take over values of this stage: all of `shapes`, with the optimizer's or without."""
        state.load_model(self.model, values)
        if values.keys() >= self.shapes(optimizer=True).keys():
            state.load_optimizer(self._optimizer, values)

    def replicas_agree(self) -> bool:
        """Whether all replicas of this stage hold the same bits. Collective."""
        digest = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            digest.update(tensor.numpy().tobytes())
        return all_equal(self._topology.replicas, digest.digest())

    def _step(
        self, phase: Phase, epoch: int, step: int, samples: Indices, coming: "Future[Batch]"
    ) -> StepResult:
        stopwatch = self._stopwatch
        stopwatch.spans = []
        self._stage.layer_seconds[:] = 0
        with stopwatch("step"):
            shares = micro_batches(samples, self._layout.replicas, self._layout.chunks)
            with stopwatch("data"):
                batch = coming.result()
            self.model.train(phase is Phase.TRAIN)
            if phase is Phase.TRAIN:
                self._stage.zero_gradients()
            outcome = self._executor.run(phase, self._actions(phase, len(batch.sizes)), batch)
            finite = True
            if phase is Phase.TRAIN:
                finite = self._gradients_are_whole(outcome)
                if finite or self._plan.on_nonfinite == "ignore":
                    self._update(np.array([len(m) for share in shares for m in share]))
            with stopwatch("last sends"):
                for channel in self._channels:
                    channel.finish()
        of_parts = [(float(f), float(b)) for f, b in self._stage.layer_seconds]
        layers = dict(zip((layer.name for layer in self._stage.layers), of_parts, strict=True))
        loss, correct = outcome.loss, outcome.correct
        images, spans = len(samples), stopwatch.spans
        return StepResult(phase, epoch, step, images, loss, correct, finite, spans, layers)

    def _set_lr(self, done: float) -> None:
        """Args: done: share of the run."""
        factor = lr_factor(self._plan.lr_schedule, min(done, 1.0), self._plan.warm_up)
        self._optimizer.lr = self._plan.lr * factor

    def _gradients_are_whole(self, outcome: Outcome) -> bool:
        """Sum them over the replicas; whether they and the loss are finite on all ranks."""
        with self._stopwatch("gradient sum"):
            self._sums.finish()
        with self._stopwatch("agreement"):
            largest = [float(bucket.abs().max()) for bucket in self._stage.buckets]
            return all_ranks(
                self._topology.world, bool(np.isfinite([*largest, outcome.loss]).all())
            )

    def _update(self, images: Indices) -> None:
        with self._stopwatch("statistics"):
            moments = allgather_rows(self._topology.replicas, self._stage.moments.numpy())
            self._stage.update_running(images, moments.reshape(len(images), -1))
        with self._stopwatch("optimizer"):
            self._optimizer.step()

    @cache  # noqa: B019 (lives as long as the run)
    def _actions(self, phase: Phase, chunks: int) -> tuple[Action, ...]:
        stage, stages = self._topology.place.stage, self._layout.stages
        work = SCHEDULES[phase](stage, stages, chunks)
        return tuple(with_messages(work, stage, stages))

    def _make_channels(self) -> tuple[Channel, Channel]:
        """Node features go down the pipeline, their gradients come back up."""
        layout, topology = self._layout, self._topology
        order = np.arange(self._plan.batch_size * layout.replicas)
        share = micro_batches(order, layout.replicas, layout.chunks)[topology.place.replica]
        sizes = [len(samples) for samples in share]
        shape = self.model.config.boundary_shape
        dtype = self._stage.moments.numpy().dtype
        up, down = topology.previous_stage, topology.next_stage
        return (
            Channel(topology.pipeline, up, down, sizes, shape, shape, dtype),
            Channel(topology.pipeline, down, up, sizes, shape, shape, dtype),
        )
