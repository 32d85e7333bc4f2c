"""What the record holds of ranks and steps: names, units and meanings in one table."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Column:
    name: str
    unit: str
    description: str
    dtype: type[np.generic] = np.float64


RANKS = (
    Column("replica", "1", "copy of the pipeline that this rank belongs to"),
    Column("stage", "1", "stage of the pipeline that it runs"),
    Column("first_block", "1", "first block of its stage"),
    Column("num_blocks", "1", "number of blocks of its stage"),
    Column("threads", "1", "threads that it computes on"),
    Column("cores", "1", "cores that it may use"),
    Column("pid", "1", "process id on its host"),
    Column("forecast_rss_bytes", "bytes", "peak resident size as forecast before the first step"),
    Column("host", "1", "name of its machine"),
)

PEAK = Column("peak_rss_bytes", "bytes", "peak resident size so far", np.int64)

STEPS = (
    Column("epoch", "1", "pass over the data, from 0", np.int32),
    Column("step", "1", "mini-batch of its epoch and phase, from 0", np.int32),
    Column("phase", "1", "0: train, 1: test", np.uint8),
    Column("warm_up", "1", "1: the first of its phase since a start; left out of tables", np.uint8),
    Column("num_images", "images", "of the global mini-batch", np.int32),
    Column("loss", "1", "mean cross-entropy over these images"),
    Column("accuracy", "1", "share of these images whose class was found"),
    Column("finite", "1", "1: loss and gradients were", np.uint8),
)

TIMINGS = (
    Column("step_s", "s", "the whole mini-batch on this rank"),
    Column(
        "data_s",
        "s",
        "waiting for the images and labels of this rank, which are read one step ahead",
    ),
    Column("forward_s", "s", "forward, with the loss on the last stage"),
    Column("backward_s", "s", "backward"),
    Column("receive_wait_s", "s", "waiting for features or gradients to arrive"),
    Column("send_wait_s", "s", "handing features and gradients to MPI, and their last leaving"),
    Column("gradient_sum_s", "s", "waiting for the sum over replicas after the last backward"),
    Column("agreement_s", "s", "waiting for word that loss and gradients are finite everywhere"),
    Column("statistics_s", "s", "merging batch-norm statistics over micro-batches and replicas"),
    Column("optimizer_s", "s", "Adam"),
)

# With an axis of replicas and one of layers; NaN where a phase has none.
LAYERS = (
    Column("forward_s", "s", "forward of a block or of the readout"),
    Column("backward_s", "s", "its backward"),
)

CLOCKS = (
    Column("clock_offset_s", "s", "of its host's clock over rank 0's, taken off its trace"),
    Column("clock_error_s", "s", "the offset is right to so much: half a message's way and back"),
    Column("clock_drift_s", "s", "how the offset changed until the end of the run"),
)

TRACE = (
    Column("mini_batch", "1", "in the order of the run", np.int32),
    Column("rank", "1", "rank in MPI_COMM_WORLD", np.int32),
    Column("kind", "1", "what was done: an index into the attribute kinds", np.uint8),
    Column("micro_batch", "1", "of its rank's mini-batch; -1: what concerns all of it", np.int32),
    Column("start_s", "s", "since the first mini-batch began, by rank 0's clock"),
    Column("end_s", "s", "likewise"),
)
