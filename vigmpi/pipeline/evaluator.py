from collections.abc import Mapping
from concurrent.futures import Future

import numpy as np

from vigmpi.pipeline import state
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

    def shapes(self, optimizer: bool) -> dict[str, tuple[int, ...]]:  # noqa: ARG002
        """Return the shapes of this stage's weights and running statistics, by name."""
        arrays = state.model_state(self._pipeline.model)
        return {name: values.shape for name, values in arrays.items()}

    def load(self, values: Mapping[str, np.ndarray]) -> None:
        """Load the weights and running statistics of this stage."""
        state.load_model(self._pipeline.model, values)
