from concurrent.futures import Future

from torch import Tensor

from vigmpi.checkpoint.state import state_by_layer
from vigmpi.models.model import Model
from vigmpi.pipeline.batch import Batch
from vigmpi.pipeline.pipeline import Pipeline
from vigmpi.record.step_record import StepRecord


class Evaluator:
    """Evaluation of one rank's stage: a pipeline alone.

    Args:
        averaged: the stage's layers with moving averages as weights; the loss and accuracy are
            then theirs, and the record holds those of the raw weights in addition.
    """

    def __init__(self, pipeline: Pipeline, averaged: Model | None = None) -> None:
        self._pipeline = pipeline
        self._averaged = averaged

    def step(self, pending: "Future[Batch]") -> StepRecord:
        """Evaluate a mini-batch. The returned numbers are those of this rank.

        With moving averages, the times are those of their evaluation alone.
        """
        pipeline, stopwatch = self._pipeline, self._pipeline.stopwatch
        pipeline.begin_step()
        with stopwatch("step"):
            batch = pipeline.wait_for(pending)
            record = pipeline.evaluate(batch, self._averaged or pipeline.model)
            pipeline.finish_sends()
        pipeline.end_step(record)
        if self._averaged:
            pipeline.begin_step()
            record.add_raw_weights(pipeline.evaluate(batch, pipeline.model))
            pipeline.finish_sends()
        return record

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights and running statistics of this stage, by layer."""
        return state_by_layer(self._pipeline.model)
