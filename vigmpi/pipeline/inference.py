"""Forward passes of a stream of requests through one stage of a pipeline."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import torch

from vigmpi.comm.stream import AnswerReceiver, AnswerSender, StreamReceiver, StreamSender
from vigmpi.comm.topology import Topology
from vigmpi.datasets.dataset import Images
from vigmpi.models.layer import MicroBatch
from vigmpi.models.model import Model
from vigmpi.monitor.activity import Activity
from vigmpi.pipeline.requests import Requests
from vigmpi.pipeline.stage import Stage
from vigmpi.schedule.action import Kind


class Span(NamedTuple):
    """Start and end of a batch on a stage in seconds, and its number of requests."""

    begin: float
    end: float
    requests: float


@dataclass
class Served:
    """Results that a rank keeps until the end.

    Attributes:
        spans: the batches, in order.
        logits: those of each batch, [images, classes], on the last stage if they are kept.
        arrivals: arrivals of the requests in seconds, on the first stage.
    """

    spans: list[Span] = field(default_factory=list)
    logits: list[np.ndarray] = field(default_factory=list)
    arrivals: Sequence[float] = ()


class Source(Protocol):
    """Source of a stage's batches."""

    def next(self, clock: Callable[[], float]) -> tuple[np.ndarray, float]:
        """Wait for a batch, and return its values [images, *memory_shape] and when it came."""

    def release(self) -> None:
        """Let the values of the last batch be overwritten."""

    def answered(self, number: int, time: float) -> None:
        """Take the answers of a stage that is the last one, too."""

    def close(self) -> Sequence[float]:
        """Return the arrivals of all requests, if they are known here."""


class RequestSource:
    """Source of a first stage.

    Args:
        load: function that returns the values of the images of some requests of the replica.
        waiting: function that is called while the stage waits for arrivals.
    """

    def __init__(
        self,
        requests: Requests,
        load: Callable[[range], Images],
        answers: AnswerReceiver | None,
        waiting: Callable[[], None],
    ) -> None:
        self._requests = requests
        self._load = load
        self._answers = answers
        self._waiting = waiting
        self._taken = 0

    def next(self, clock: Callable[[], float]) -> tuple[np.ndarray, float]:
        poll = self._answers.poll if self._answers else None
        batch = self._requests.next(clock, self._pause, poll)
        begin = clock()
        self._taken += len(batch)
        return self._load(batch), begin

    def release(self) -> None:
        """Do nothing, since each batch has its own memory."""

    def answered(self, number: int, time: float) -> None:
        self._requests.answered(number, time)

    def close(self) -> Sequence[float]:
        if self._answers:
            self._answers.receive_all(self._taken)
        return self._requests.arrivals

    def _pause(self, seconds: float) -> None:
        if self._requests.expects_an_arrival:  # otherwise, a later stage must make progress
            self._waiting()
        time.sleep(seconds)


class MessageSource:
    """Source of a later stage."""

    def __init__(self, receiver: StreamReceiver) -> None:
        self._receiver = receiver

    def next(self, clock: Callable[[], float]) -> tuple[np.ndarray, float]:
        values = self._receiver.receive()
        return values, clock()

    def release(self) -> None:
        self._receiver.release()

    def answered(self, number: int, time: float) -> None:
        """Do nothing, since the answers go to the first stage."""

    def close(self) -> Sequence[float]:
        self._receiver.close()
        return ()


def serve(
    topology: Topology,
    model: Model,
    source: Source,
    max_images: int,
    clock: Callable[[], float],
    activity: Activity,
    *,
    keeps_logits: bool,
) -> Served:
    """Run all batches through this rank's stage.

    Args:
        model: the layers of the stage.
        max_images: number of images in the largest batch.
        clock: function that returns the seconds since the start, which all ranks share.
    """
    model.eval()
    served, stage = Served(), Stage(model, first=topology.place.stage == 0)
    inputs, outputs = model.layers[0].inputs, model.layers[-1].outputs
    comm, sender, answers = topology.pipeline, None, None
    if topology.place.stage < comm.size - 1:
        shape, dtype = outputs.memory_shape, outputs.numpy_dtype
        sender = StreamSender(comm, topology.next_stage, shape, dtype, max_images)
    elif topology.place.stage > 0:
        answers = AnswerSender(comm, 0)
    while True:
        with activity("step"):
            if sender:
                with activity(Kind.SEND_FEATURES):
                    sender.wait_for_buffer()
            with activity(Kind.RECEIVE_FEATURES if topology.place.stage else "data"):
                values, begin = source.next(clock)
            if not len(values):
                break
            with activity(Kind.FORWARD):
                features = inputs.conform(inputs.from_message(values))
                micro_batch = MicroBatch(np.arange(len(values)), 0)
                message = outputs.to_message(stage.evaluate(features, micro_batch))
            end = clock()
            served.spans.append(Span(begin, end, len(values)))
            if sender:
                sender.send(message)
            elif keeps_logits:
                served.logits.append(message.copy())
            source.release()
            if answers:
                answers.send(len(values), end)
            elif not sender:
                source.answered(len(values), end)
    for each in (sender, answers):
        if each:
            each.finish()
    served.arrivals = source.close()
    return served


def warm_up(model: Model, max_images: int) -> None:
    """Run a whole batch and a single image, so that the first requests are not slower."""
    model.eval()
    inputs, stage = model.layers[0].inputs, Stage(model, first=True)
    for number in (max_images, 1, max_images):
        values = torch.zeros(number, *inputs.memory_shape, dtype=inputs.dtype)
        stage.evaluate(inputs.from_memory_order(values), MicroBatch(np.arange(number), 0))
