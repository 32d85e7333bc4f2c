"""The settings of a run."""

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vigmpi.errors import InputError
from vigmpi.layout import Layout
from vigmpi.manifest import Checkpoint
from vigmpi.phase import Phase
from vigmpi.split import split_blocks

PROGRESS = ("auto", "bar", "lines", "off")
DATASETS = ("cifar10", "folder", "digits", "synthetic")
MODEL_PATHS = ("collapsed", "reference")
READOUTS = ("sum", "mean")
_LEAST_S = 3.0  # ranks give a sign of life every second
LR_SCHEDULES = ("constant", "linear", "cosine")
NOT_FINITE = ("stop", "skip", "go-on")
ON_FAILURE = ("end", "continue")
COMMANDS = ("train", "evaluate")


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, {least} or more")
        return int(text)

    return parse


def _positive(text: str) -> float:
    if not 0 < (value := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value


def _some_seconds(text: str) -> float:
    value = _positive(text)
    if value < _LEAST_S:
        raise argparse.ArgumentTypeError(f"{text!r} is less than {_LEAST_S:g} seconds")
    return value


def _share(text: str) -> float:
    if not 0 <= (value := _number(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share, from 0 to 1")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _blocks_per_stage(text: str) -> tuple[int, ...]:
    return tuple(_whole(1)(number.strip()) for number in text.split(","))


def _setting(
    default: Any,
    about: str,
    parse: Callable[[str], Any] = str,
    commands: tuple[str, ...] = COMMANDS,
    **argument: Any,
) -> Any:
    metadata = {"commands": commands, "argument": {"help": about, "type": parse, **argument}}
    return field(default=default, metadata=metadata)


_of_train = partial(_setting, commands=("train",))


@dataclass(frozen=True)
class PredictConfig:
    """What a user can set of a prediction.

    Attributes:
        start: the checkpoint.
        images: files.
        json: whether to print JSON.
    """

    start: Checkpoint
    images: tuple[Path, ...]
    json: bool = False


@dataclass(frozen=True)
class RunConfig:
    """What a user can set: a field is a flag, a key of the TOML file and an HDF5 attribute.

    Attributes:
        start: the checkpoint that `resume` or `checkpoint` names; no setting of its own.
    """

    stages: int = _setting(1, "pipeline stages, each a run of blocks", _whole(1), metavar="S")
    replicas: int = _setting(
        1, "copies of the pipeline, each with its share of the data", _whole(1), metavar="R"
    )
    chunks: int = _setting(
        1, "micro-batches that a replica's mini-batch is cut into", _whole(1), metavar="C"
    )
    split: tuple[int, ...] | None = _setting(
        None, "blocks on each stage, as 4,2,2 (default: even)", _blocks_per_stage, metavar="N,N"
    )
    blocks: int = _setting(8, "blocks of the model", _whole(1), metavar="N")
    model_path: str = _setting(
        "collapsed",
        "how the model is computed: collapsed (fast) or reference (PyG's layers); same results",
        choices=MODEL_PATHS,
        metavar="PATH",
    )
    readout: str = _setting(
        "sum",
        "what the readout takes over an image's nodes: sum (the study's) or mean",
        choices=READOUTS,
        metavar="HOW",
    )
    dataset: str | None = _setting(
        None,
        "cifar10, folder (your own images), digits or synthetic (default: cifar10 if it is in the "
        "data folder, else digits)",
        choices=DATASETS,
        metavar="NAME",
    )
    data_dir: Path = _setting(
        Path("data"),
        "folder of the data sets; with --dataset folder a prepared file, or class folders",
        Path,
        metavar="FOLDER",
    )
    download: bool = _setting(False, "fetch the data set where it is not in the folder")
    normalize: bool = _setting(
        False, "bring each channel to the training images' mean 0 and deviation 1"
    )
    flip: bool = _of_train(False, "mirror training images at random, left to right")
    crop: int = _of_train(
        0,
        "move training images at random by up to N pixels each way; 0: not",
        _whole(0),
        metavar="N",
    )
    batch_size: int = _setting(100, "images of a replica's mini-batch", _whole(1), metavar="N")
    epochs: int = _of_train(
        3, "passes over the data, each followed by a test", _whole(1), metavar="N"
    )
    steps: int = _of_train(
        0, "mini-batches of an epoch that are trained on; 0: all", _whole(0), metavar="N"
    )
    test_steps: int = _setting(
        0, "mini-batches of the test images after each epoch; 0: all", _whole(0), metavar="N"
    )
    lr: float = _of_train(1e-4, "learning rate of Adam", _positive, metavar="X")
    lr_schedule: str = _of_train(
        "constant",
        "how it changes over the run: constant, linear or cosine (both down to 0)",
        choices=LR_SCHEDULES,
        metavar="HOW",
    )
    warm_up: float = _of_train(
        0.0, "share of the run in which it rises from 0", _share, metavar="X"
    )
    seed: int = _setting(
        0, "of the weights, the sample order and random changes to images", _whole(0), metavar="N"
    )
    threads: int | None = _setting(
        None,
        "cores that a rank computes on (default: OMP_NUM_THREADS, else the cores it may use "
        "divided by the ranks that share them)",
        _whole(1),
        metavar="N",
    )
    output: Path | None = _setting(
        None,
        "the HDF5 record (default: vigmpi-<Slurm job or UTC time>.h5)",
        Path,
        metavar="FILE",
    )
    overwrite: bool = _setting(False, "replace an existing record")
    checkpoint: str | None = _setting(
        None,
        "what to evaluate: a checkpoint, a folder of them, latest, or a file of weights; its "
        "run's model and data hold where no flag is given",
        commands=("evaluate",),
        metavar="PATH",
    )
    resume: str | None = _of_train(
        None,
        "go on from a checkpoint, a folder of them, latest, or a file of weights; its run's "
        "settings hold where no flag is given",
        metavar="PATH",
    )
    checkpoint_dir: Path | None = _of_train(
        None,
        "folder of the checkpoints (default: the record's name, with .checkpoints)",
        Path,
        metavar="FOLDER",
    )
    checkpoint_steps: int = _of_train(
        0, "training steps from one checkpoint to the next; 0: any number", _whole(0), metavar="N"
    )
    checkpoint_minutes: float = _of_train(
        10.0, "minutes from one checkpoint to the next at most", _positive, metavar="X"
    )
    keep: int = _of_train(
        2, "newest checkpoints that are kept; 0: none are written", _whole(0), metavar="N"
    )
    on_nonfinite: str = _of_train(
        "stop",
        "where loss or gradients are not finite: stop, skip the step, or go-on",
        choices=NOT_FINITE,
        metavar="HOW",
    )
    on_failure: str = _of_train(
        "end",
        "where a rank dies: end the run, or continue without its replica (Open MPI 5 with mpirun "
        "--with-ft ulfm)",
        choices=ON_FAILURE,
        metavar="HOW",
    )
    trace: bool = _setting(False, "record every action of every rank with its start and end")
    silence_s: float = _setting(
        30.0,
        "watchdog: seconds without a sign of life after which a rank counts as stopped",
        _some_seconds,
        metavar="S",
    )
    standstill_s: float | None = _setting(
        None,
        "watchdog: seconds in which no rank gets on, which end the run (default: 300, or 20 "
        "mini-batches if that is longer; before the first mini-batch is through ten times as many)",
        _some_seconds,
        metavar="S",
    )
    progress: str = _setting(
        "auto",
        "auto, bar (a terminal), lines (a log) or off",
        choices=PROGRESS,
        metavar="HOW",
    )

    start: Checkpoint | None = None

    @property
    def layout(self) -> Layout:
        return Layout(self.stages, self.replicas, self.chunks)

    @property
    def stage_blocks(self) -> list[range]:
        return split_blocks(self.blocks, self.stages, self.split)

    @property
    def mini_batch_images(self) -> int:
        """Images of a mini-batch, over all replicas."""
        return self.batch_size * self.replicas

    @property
    def limits(self) -> dict[Phase, int]:
        """Mini-batches of each phase of an epoch at most; 0: all there are."""
        return {Phase.TRAIN: self.steps, Phase.TEST: self.test_steps}

    def check(self) -> None:
        """Raise InputError where settings do not fit each other."""
        about = self.start.manifest if self.start else None
        if about and self.resume and about.position.epoch >= self.epochs:
            raise InputError(
                f"--resume {self.resume} has no epoch left: its run is through {self.epochs}; "
                f"type: --epochs {about.position.epoch + 1} or more"
            )
        _ = self.stage_blocks
        if self.trace and self.on_failure == "continue":
            raise InputError(
                "--trace needs all ranks to the end; type: --on-failure end, or leave out --trace"
            )
        if self.chunks > self.batch_size:
            raise InputError(
                f"--chunks {self.chunks} is more than the {self.batch_size} images of a "
                f"mini-batch; type: --chunks {self.batch_size} or fewer, or a larger --batch-size"
            )
