from concurrent.futures import Future

from torch import Tensor

from vigmpi.checkpoint.state import state_by_layer
from vigmpi.pipeline.batch import Batch
from vigmpi.pipeline.pipeline import Pipeline
from vigmpi.record.step_record import StepRecord


class Evaluator:
    """Evaluation of one rank's stage: a pipeline alone."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def step(self, pending: "Future[Batch]") -> StepRecord:
        """Evaluate a mini-batch. The returned numbers are those of this rank."""
        pipeline, stopwatch = self._pipeline, self._pipeline.stopwatch
        pipeline.begin_step()
        with stopwatch("step"):
            record = pipeline.evaluate(pipeline.wait_for(pending))
            pipeline.finish_sends()
        return pipeline.end_step(record)

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Return the weights and running statistics of this stage, by layer."""
        return state_by_layer(self._pipeline.model)
