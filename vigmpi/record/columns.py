"""Format version of the record, and its columns with their units and descriptions."""

from dataclasses import dataclass

import numpy as np

# Raised only if a reader of the old format would misread the new one; see README.md.
FORMAT = "vigmpi record 1"


@dataclass(frozen=True)
class Column:
    name: str
    unit: str
    description: str
    dtype: type[np.generic] = np.float64


RANKS = (
    Column("replica", "1", "replica that the rank belongs to"),
    Column("stage", "1", "pipeline stage that the rank runs"),
    Column("part", "1", "part of each image that the rank has"),
    Column("first_layer", "1", "first layer of the rank's stage: index into the axis `layer`"),
    Column("num_layers", "1", "number of layers in the rank's stage"),
    Column("first_block", "1", "first block of the rank's stage, from 0"),
    Column("num_blocks", "1", "number of blocks in the rank's stage"),
    Column("threads", "1", "number of compute threads"),
    Column("cores", "1", "number of cores that the rank may run on"),
    Column("pid", "1", "process ID on the host"),
    Column("forecast_rss_bytes", "bytes", "forecast of the peak resident set size"),
    Column("host", "1", "host name"),
)

PEAK = Column("peak_rss_bytes", "bytes", "peak resident set size so far", np.int64)

STEPS = (
    Column("epoch", "1", "epoch, from 0", np.int32),
    Column("step", "1", "mini-batch within the epoch and phase, from 0", np.int32),
    Column("phase", "1", "0: train, 1: test", np.uint8),
    Column("warm_up", "1", "1: first mini-batch of the phase after a start or resume", np.uint8),
    Column("num_images", "images", "number of images in the global mini-batch", np.int32),
    Column("loss", "1", "mean cross-entropy over the global mini-batch"),
    Column("accuracy", "1", "fraction of the global mini-batch that is classified correctly"),
    Column("raw_loss", "1", "loss with the raw weights if tests use moving averages, or NaN"),
    Column("raw_accuracy", "1", "accuracy with the raw weights, likewise"),
    Column("finite", "1", "1: the loss and, in training, all gradients are finite", np.uint8),
)

# Axes: mini-batch, replica, layer. Lost replicas are NaN.
LAYERS = (
    Column(
        "forward_s",
        "s",
        "forward passes of the layer, without the loss, on the slowest part with its exchanges",
    ),
    Column(
        "backward_s",
        "s",
        "backward passes of the layer, on the slowest part with its exchanges; 0 in a test",
    ),
)

CLOCKS = (
    Column("clock_offset_s", "s", "rank's clock minus rank 0's; already subtracted from its spans"),
    Column("clock_error_s", "s", "error bound of the offset: half the shortest round trip"),
    Column("clock_drift_s", "s", "change of the offset by the end of the run"),
)

TRACE = (
    Column("mini_batch", "1", "mini-batch of the run, from 0", np.int32),
    Column("rank", "1", "rank in MPI_COMM_WORLD", np.int32),
    Column("kind", "1", "kind of action: index into the group's attribute `kinds`", np.uint8),
    Column("micro_batch", "1", "micro-batch of the replica; -1: the whole mini-batch", np.int32),
    Column("start_s", "s", "start since the first traced mini-batch began, by rank 0's clock"),
    Column("end_s", "s", "end since the first traced mini-batch began, by rank 0's clock"),
)
