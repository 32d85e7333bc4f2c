import hashlib
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vigmpi.checkpoint.state import copy_into, flat, share_of_copy, state_by_layer
from vigmpi.comm.collectives import all_ranks, allgather_rows, allgather_strings
from vigmpi.comm.reductions import GRADIENT_SUMS
from vigmpi.pipeline.adamw import AdamW
from vigmpi.pipeline.averages import Averages
from vigmpi.pipeline.batch import Batch
from vigmpi.pipeline.clipping import clip, gradient_norm
from vigmpi.pipeline.gradients import gradient_buckets
from vigmpi.pipeline.learning_rate import beta1, lr_factor
from vigmpi.pipeline.pipeline import Pipeline
from vigmpi.pipeline.running_statistics import RunningStatistics
from vigmpi.record.step_record import StepRecord


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of the optimizer.

    Attributes:
        epochs: total number of epochs, the length of the learning-rate schedule.
        lr: base learning rate of AdamW.
        lr_schedule, warm_up: arguments of `lr_factor`.
        weight_decay: decoupled weight decay.
        clip_norm: largest norm of the gradients of all layers; 0 for no limit.
        ema: limit of the decay of the averages of weights and running statistics; 0 for none.
        gradient_sum: a key of `GRADIENT_SUMS`.
        on_nonfinite: "ignore" to take steps even if the loss or a gradient is not finite.
    """

    epochs: int = 1
    lr: float = 1e-4
    lr_schedule: str = "constant"
    warm_up: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    ema: float = 0.0
    gradient_sum: str = "allreduce"
    on_nonfinite: str = "stop"


class Trainer:
    """Training of one rank's stage: a pipeline, the sum over the replicas and an optimizer.

    Attributes:
        averages: moving averages of the weights and running statistics, or None.
    """

    def __init__(self, pipeline: Pipeline, config: TrainerConfig) -> None:
        self._pipeline = pipeline
        self._config = config
        self._topology = pipeline.topology
        self.model = pipeline.model
        self.averages = Averages(self.model, config.ema) if config.ema else None
        self._buckets = gradient_buckets(self.model)
        arrays = [bucket.numpy() for bucket in self._buckets]
        self._gradient_sum = GRADIENT_SUMS[config.gradient_sum](self._topology.replicas, arrays)
        self._statistics = RunningStatistics(self.model, pipeline.config.layout.chunks)
        self._optimizer = AdamW(
            dict(self.model.trainable_parameters()), config.lr, config.weight_decay
        )

    def step(self, pending: "Future[Batch]") -> StepRecord:
        """Train on a mini-batch. Collective.

        The returned numbers are those of this rank. If they are not finite on all ranks, the
        weights and the running statistics have not changed, unless `on_nonfinite` is "ignore".
        """
        pipeline, stopwatch = self._pipeline, self._pipeline.stopwatch
        pipeline.begin_step()
        with stopwatch("step"):
            batch = pipeline.wait_for(pending)
            self._set_lr(batch)
            for bucket in self._buckets:
                bucket.zero_()
            record = pipeline.train(batch, self._gradient_sum, self._statistics)
            with stopwatch("agreement"):
                finite = self._all_finite(record.loss)
                record.ranks["finite"] = finite
                if finite and self._config.clip_norm:
                    self._clip()
            if finite or self._config.on_nonfinite == "ignore":
                with stopwatch("statistics"):
                    self._update_statistics(batch)
                with stopwatch("optimizer"):
                    self._optimizer.step()
                    if self.averages:
                        self.averages.update(self._optimizer.num_steps)
            pipeline.finish_sends()
        return pipeline.end_step(record)

    def _set_lr(self, batch: Batch) -> None:
        config, optimizer = self._config, self._optimizer
        done = min((batch.epoch + batch.done) / config.epochs, 1.0)
        optimizer.lr = config.lr * lr_factor(config.lr_schedule, done, config.warm_up)
        optimizer.beta1 = beta1(config.lr_schedule, done, config.warm_up)

    def _clip(self) -> None:
        """Limit the norm of the gradients of all layers. Collective over the stages."""
        pipeline, topology = self._pipeline.config, self._topology
        layers = pipeline.stages[topology.place.stage]
        norm = gradient_norm(self._buckets, layers, len(pipeline.layers), topology.pipeline)
        clip(self._buckets, norm, self._config.clip_norm)

    def _all_finite(self, loss: float) -> bool:
        """Return whether the loss and the gradients are finite on all ranks. Collective."""
        finite = np.isfinite(loss) and all(bool(b.isfinite().all()) for b in self._buckets)
        return all_ranks(self._topology.world, bool(finite))

    def _update_statistics(self, batch: Batch) -> None:
        sizes = np.array(batch.all_sizes)
        moments = allgather_rows(self._topology.replicas, self._statistics.moments.numpy())
        self._statistics.update(sizes, moments.reshape(len(sizes), -1))

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return weights, running statistics and training state of this stage, by layer."""
        averages = self.averages.state if self.averages else None
        return state_by_layer(self.model, self._optimizer.state, averages)

    def shard(self) -> dict[str, dict[str, np.ndarray]]:
        """Return views of this rank's shard of a checkpoint, by layer."""
        copies = self._topology.copies
        return share_of_copy(self.state(), copies.rank, copies.size)

    def stage_state(self) -> dict[str, np.ndarray]:
        """Return views of the state of this stage."""
        return {name: tensor.numpy() for name, tensor in flat(self.state()).items()}

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        """Load a copy of `stage_state`."""
        copy_into(self.state(), values)

    def replica_difference(self) -> str:
        """Return which tensor is not bitwise equal in all replicas and parts, or "". Collective.

        Weights, running statistics, their averages and the state of the optimizer are compared.
        """
        copies, state = self._topology.copies, flat(self.state())
        digests = [hashlib.sha256(tensor.numpy().tobytes()).digest() for tensor in state.values()]
        rows = allgather_rows(copies, np.frombuffer(b"".join(digests), np.uint8))
        rows = rows.reshape(copies.size, len(state), hashlib.sha256().digest_size)
        others, tensors = np.nonzero((rows != rows[0]).any(axis=2))
        own = ""
        if len(tensors):
            first = tensors.argmin()
            replica, part = divmod(int(others[first]), self._topology.parts.size)
            other = f"part {part} of replica {replica}" if part else f"replica {replica}"
            own = f"{[*state][tensors[first]]} of {other} is not that of replica 0"
            own = f"{own}, part 0" if part else own
        return next(filter(None, allgather_strings(self._topology.world, own)), "")
