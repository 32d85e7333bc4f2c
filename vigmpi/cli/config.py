"""Configurations of the commands, as frozen dataclasses."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from vigmpi.checkpoint.search import Checkpoint
from vigmpi.cli.values import (
    MAX_BLOCKS,
    MAX_CHUNKS,
    MAX_REQUESTS,
    MAX_SEED,
    MAX_THREADS,
    comma_separated,
    file_path,
    fraction,
    image_size,
    non_negative_number,
    path,
    positive_number,
    proper_fraction,
    seconds,
    split,
    whole_number,
)
from vigmpi.datasets import DATASETS
from vigmpi.errors import InputError
from vigmpi.layout.layout import Layout
from vigmpi.layout.split import blocks_per_stage
from vigmpi.models import MODELS
from vigmpi.models.config import (
    BACKENDS,
    CONVOLUTIONS,
    MATMULS,
    OPTIONS,
    PRECISIONS,
    READOUTS,
    ModelConfig,
    check_options,
    check_precision,
)
from vigmpi.phase import Phase
from vigmpi.schedule import SCHEDULES

PROGRESS = ("auto", "bar", "lines", "off")
ONE_CYCLE = "one-cycle"
LR_SCHEDULES = ("constant", "linear", "cosine", ONE_CYCLE)
GRADIENT_SUMS = ("allreduce", "ordered")
ON_NONFINITE = ("stop", "skip", "ignore")
ON_FAILURE = ("abort", "continue")
MEMORY_CHECKS = ("on", "off")
FORMATS = ("table", "csv", "json")
EXPORT_FORMATS = ("packages", "c")
DTYPES = ("float32", "float64")
NO_EMA_HELP = "use the raw weights even if the checkpoint holds moving averages of them"
MIN_TIMEOUT_S = 3.0  # a few heartbeats, which ranks send once a second


def _option(
    group: str,
    default: Any,
    description: str,
    parse: Callable[[str], Any] = str,
    commands: tuple[str, ...] = ("train", "evaluate"),
    **argument: Any,
) -> Any:
    metadata = {
        "group": group,
        "commands": commands,
        "argument": {"help": description, "type": parse, **argument},
    }
    return field(default=default, metadata=metadata)


_layout, _model, _data, _training, _record, _checkpoints, _failures, _terminal, _requests = (
    partial(_option, group)
    for group in (
        *("layout", "model", "data", "training"),
        *("record", "checkpoints", "failures", "terminal", "requests"),
    )
)
_TRAIN = ("train",)
_INFER = ("infer",)
_ALL = ("train", "evaluate", "infer")


@dataclass(frozen=True)
class PrepareConfig:
    """Options of `vigmpi prepare`.

    Attributes:
        source: archive or folder of images.
        output: file to write; None for the default name under `data/`.
        image_size: height and width of the prepared images, in pixels.
        test_share: fraction of each class's images to test on; 0 if the source tells.
        skip_unreadable: whether to leave out images that cannot be read.
        preview: PNG file to write; None for no preview.
        npy: file of NumPy's format to write with the test images; None for none.
        overwrite: whether to replace existing files.
    """

    source: Path
    output: Path | None
    image_size: int
    test_share: float
    skip_unreadable: bool
    preview: Path | None
    npy: Path | None
    overwrite: bool


@dataclass(frozen=True)
class ModelsConfig:
    """Options of `vigmpi models`.

    Attributes:
        name: the model whose layers are printed; None for a table of all models.
        image_size: height and width in pixels; None for those it was published for.
        conv: graph convolution of the published models.
    """

    name: str | None
    image_size: tuple[int, int] | None
    conv: str


@dataclass(frozen=True)
class PredictConfig:
    """Options of `vigmpi predict`.

    Attributes:
        start: the checkpoint to use.
        images: image files, folders and patterns.
        format: one of `FORMATS`.
    """

    start: Checkpoint
    images: tuple[Path, ...]
    format: str = FORMATS[0]


@dataclass(frozen=True)
class ExportConfig:
    """Options of `vigmpi export`.

    Attributes:
        start: the checkpoint to use.
        format: one of `EXPORT_FORMATS`.
        output: folder to write.
        dtype: one of `DTYPES`.
        max_batch_size: number of images in the largest batch of packages.
        threads: number of threads for which packages are compiled.
        build: whether to compile the library.
        overwrite: whether to replace an existing export.
    """

    start: Checkpoint
    format: str
    output: Path
    dtype: str = DTYPES[0]
    max_batch_size: int = 256
    threads: int = 1
    build: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class LoadTestConfig:
    """Options of `vigmpi load-test`.

    Attributes:
        command: the program with its arguments, to which the load and `--times` are appended.
        output: HDF5 file to write.
        in_flight: numbers of requests in flight on each replica, for closed loops.
        rates: rates of Poisson arrivals per second, for open loops.
        bound_ms: bound of p99 for which the largest rate is searched; 0 for no search.
        requests: number of requests of each load.
        warm_up: number of requests at the start that do not count.
        seed: seed of the arrivals.
        overwrite: whether to replace an existing file.
    """

    command: tuple[str, ...]
    output: Path
    in_flight: tuple[int, ...]
    rates: tuple[float, ...]
    bound_ms: float
    requests: int
    warm_up: int
    seed: int
    overwrite: bool


@dataclass(frozen=True)
class RunConfig:
    """Options of `vigmpi train` and `vigmpi evaluate`.

    Each field is a flag, a key of the TOML file and an HDF5 attribute.

    Attributes:
        start: the checkpoint that `resume` or `checkpoint` names; not an option itself.
    """

    stages: int = _layout(
        1,
        "number of pipeline stages",
        whole_number(1),
        metavar="S",
        commands=_ALL,
    )
    replicas: int = _layout(
        1,
        "number of copies of the pipeline, each with its own share of the data",
        whole_number(1),
        metavar="R",
        commands=_ALL,
    )
    parts: int = _layout(
        1,
        "number of parts (strips of rows) into which each image is cut, each with a rank of its "
        "own in every stage and replica (only for --model study)",
        whole_number(1),
        metavar="P",
    )
    chunks: int = _layout(
        1,
        "number of micro-batches into which each replica cuts its mini-batch",
        whole_number(1, MAX_CHUNKS),
        metavar="C",
    )
    split: tuple[int, ...] | str | None = _layout(
        None,
        "number of blocks on each stage, for example 4,2,2, or 'measured' to time every layer and "
        "minimize the time of the slowest stage (default: as even as possible)",
        split,
        metavar="N,N|measured",
        commands=_ALL,
    )
    split_after: tuple[str, ...] | None = _layout(
        None,
        "names of the layers behind which the pipeline is cut, instead of --split; for example "
        '"block 2,block 5"',
        comma_separated,
        metavar="NAME,NAME",
        commands=_ALL,
    )
    schedule: str = _layout(
        "gpipe",
        "order of the forward and backward passes of a training step: gpipe (all forwards, then "
        "all backwards)",
        str,
        _TRAIN,
        choices=SCHEDULES,
        metavar="NAME",
    )
    threads: int | None = _layout(
        None,
        "number of threads per rank (default: OMP_NUM_THREADS if set, otherwise an equal share "
        "of the available cores)",
        whole_number(1, MAX_THREADS),
        metavar="N",
        commands=_ALL,
    )
    model: str = _model(
        "study",
        "model to use; vigmpi models lists all of them",
        choices=MODELS,
        metavar="NAME",
        commands=_ALL,
    )
    blocks: int = _model(
        8,
        "number of blocks of the study's model",
        whole_number(1, MAX_BLOCKS),
        metavar="N",
        commands=_ALL,
    )
    conv: str = _model(
        "mr",
        "graph convolution of the published models: mr (max-relative), edge (EdgeConv), sage "
        "(GraphSAGE) or gin (GIN)",
        choices=CONVOLUTIONS,
        metavar="NAME",
        commands=_ALL,
    )
    drop_path: float = _model(
        0.0,
        "stochastic depth: probability of dropping a residual branch of the last block for a "
        "training image; it decreases linearly to 0 at the first block",
        proper_fraction,
        _TRAIN,
        metavar="X",
    )
    precision: str = _model(
        "fp32",
        "type of features, messages and products: fp32, or bf16 (bfloat16; weights, statistics, "
        "loss and gradient sums stay fp32); not for the study's model",
        choices=PRECISIONS,
        metavar="NAME",
        commands=_ALL,
    )
    matmul: str | None = _model(
        None,
        "library of the fp32 products of pointwise layers: blas or onednn (default: by processor, "
        "the fastest); not for the study's model",
        choices=MATMULS,
        metavar="NAME",
        commands=_ALL,
    )
    backend: str = _model(
        "fast",
        "implementation of the model: fast, or reference (plain layers, for comparison); both "
        "compute the same function",
        choices=BACKENDS,
        metavar="NAME",
        commands=_ALL,
    )
    readout: str = _model(
        ModelConfig.readout,
        "pooling of an image's nodes in the head of the study's model: sum or mean",
        choices=READOUTS,
        metavar="NAME",
        commands=_ALL,
    )
    dataset: str | None = _data(
        None,
        "cifar10, folder (your own images), digits (scikit-learn's) or synthetic (default: "
        "cifar10 if it is in the data folder, otherwise digits)",
        choices=DATASETS,
        metavar="NAME",
    )
    data_dir: Path = _data(
        Path("data"),
        "folder that contains the data sets; with --dataset folder, a prepared file or a folder "
        "of class folders",
        path,
        metavar="PATH",
    )
    image_size: tuple[int, int] | None = _data(
        None,
        "height and width of the images of --dataset synthetic, in pixels (default: 32)",
        image_size,
        metavar="N|HxW",
    )
    download: bool = _data(False, "download the data set if it is not in the data folder")
    test_share: float = _data(
        0.0,
        "fraction of each class's images to test on, for class folders without test images; 0 if "
        "there are",
        proper_fraction,
        metavar="X",
    )
    normalize: bool = _data(
        False, "standardize each channel with the mean and deviation of the training images"
    )
    flip: bool = _data(False, "mirror each training image with probability 1/2", commands=_TRAIN)
    random_crop: int = _data(
        0,
        "shift training images randomly by up to N pixels in each direction; 0 for none",
        whole_number(0),
        _TRAIN,
        metavar="N",
    )
    mixup: float = _data(
        0.0,
        "mix each training image with another one of its mini-batch, by weights from the "
        "distribution Beta(X, X); 0 for none",
        non_negative_number,
        _TRAIN,
        metavar="X",
    )
    holdout: int = _data(
        0,
        "number of training images, chosen by --seed, to test on instead of training on them; the "
        "test images are then not used, and the checkpoint with the best accuracy is kept in "
        "the subfolder best",
        whole_number(0),
        _TRAIN,
        metavar="N",
    )
    batch_size: int = _training(
        50, "images per mini-batch on each replica", whole_number(1), metavar="N"
    )
    drop_last: bool = _training(
        False,
        "drop the last training mini-batch of an epoch if it is smaller than the others",
        commands=_TRAIN,
    )
    epochs: int = _training(
        0,
        "number of passes over the training images, each followed by a test; 0 chooses 3 to 10, "
        "about 15,000 images in total where possible, but at least 90 steps",
        whole_number(0),
        _TRAIN,
        metavar="N",
    )
    lr: float = _training(3e-3, "peak learning rate of AdamW", positive_number, _TRAIN, metavar="X")
    lr_schedule: str = _training(
        "cosine",
        "learning-rate schedule: constant, linear or cosine (both decay to 0), or one-cycle (along "
        "cosines up and down, with beta1 cycled inversely, as torch's OneCycleLR; needs --warm-up)",
        str,
        _TRAIN,
        choices=LR_SCHEDULES,
        metavar="NAME",
    )
    warm_up: float = _training(
        0.1,
        "fraction of training spent on linear learning-rate warm-up, or on the rise of one-cycle",
        fraction,
        _TRAIN,
        metavar="X",
    )
    weight_decay: float = _training(
        0.0,
        "decoupled weight decay of AdamW; biases, norms and position tables do not decay",
        non_negative_number,
        _TRAIN,
        metavar="X",
    )
    clip_norm: float = _training(
        0.0,
        "scale the gradients of a mini-batch down to this Euclidean norm if theirs is larger; 0 "
        "for no limit",
        non_negative_number,
        _TRAIN,
        metavar="X",
    )
    label_smoothing: float = _training(
        0.0,
        "probability mass that training labels spread evenly over all classes",
        proper_fraction,
        _TRAIN,
        metavar="X",
    )
    ema: float = _training(
        0.0,
        "decay per step of moving averages of the weights and running statistics, for example "
        "0.999; tests, evaluate and predict then use the averages. 0 for none",
        proper_fraction,
        _TRAIN,
        metavar="X",
    )
    recompute: bool = _training(
        False,
        "save only the inputs of the blocks in a forward pass, and compute the rest again in the "
        "backward pass (study): less memory, more time",
        commands=_TRAIN,
    )
    gradient_sum: str = _training(
        "allreduce",
        "sum of gradients over the replicas: allreduce (MPI's; with three or more replicas on "
        "several hosts, bits may depend on the placement of ranks) or ordered (in rank order: "
        "the same bits for any placement and MPI library, but more messages; always used "
        "for three or more replicas with --parts)",
        str,
        _TRAIN,
        choices=GRADIENT_SUMS,
        metavar="NAME",
    )
    seed: int = _training(
        0,
        "seed of the initial weights, the sample order and the random augmentation",
        whole_number(0, MAX_SEED),
        metavar="N",
    )
    steps: int = _training(
        0,
        "maximum number of training mini-batches per epoch; 0 for no limit",
        whole_number(0),
        _TRAIN,
        metavar="N",
    )
    test_steps: int = _training(
        0,
        "maximum number of mini-batches per test; 0 for no limit",
        whole_number(0),
        metavar="N",
    )
    record: Path | None = _record(
        None,
        "HDF5 file to write; a resumed run extends the record of its run (default: in training "
        "vigmpi-<Slurm job ID or UTC time>.h5, with a number appended if that name is taken; in "
        "an evaluation none)",
        file_path,
        metavar="FILE",
    )
    overwrite: bool = _record(False, "replace an existing record and, in training, its checkpoints")
    trace: bool = _record(False, "record the start and end of every action on every rank")
    checkpoint: str | None = _checkpoints(
        None,
        "what to use (required): a checkpoint, a folder of checkpoints, a file of weights, "
        "or 'latest' in the current folder; the options of the run that wrote it, except its "
        "layout, apply unless given here or in the TOML file",
        str,
        ("evaluate", "infer"),
        metavar="PATH",
    )
    resume: str | None = _checkpoints(
        None,
        "what to start from: a checkpoint, a folder of checkpoints, a file of weights, or "
        "'latest' (in --checkpoint-dir, beside --record, of the Slurm job if Slurm restarted it, "
        "or in the current folder); the options of the run that wrote it apply unless given here "
        "or in the TOML file",
        str,
        _TRAIN,
        metavar="PATH",
    )
    no_ema: bool = _checkpoints(False, NO_EMA_HELP, commands=("evaluate", "infer"))
    replace_head: bool = _checkpoints(
        False,
        "start a new run from the weights of --resume with a newly initialized head, for example "
        "for another number of classes",
        commands=_TRAIN,
    )
    checkpoint_dir: Path | None = _checkpoints(
        None,
        "folder for the checkpoints (default: the record's whole name with .checkpoints appended)",
        path,
        _TRAIN,
        metavar="PATH",
    )
    checkpoint_minutes: float = _checkpoints(
        10.0, "maximum time between checkpoints, in minutes", positive_number, _TRAIN, metavar="X"
    )
    checkpoint_steps: int = _checkpoints(
        0,
        "number of training steps between checkpoints; 0 for by time only",
        whole_number(0),
        _TRAIN,
        metavar="N",
    )
    keep: int = _checkpoints(
        2, "number of checkpoints to keep; 0 to write none", whole_number(0), _TRAIN, metavar="N"
    )
    on_nonfinite: str = _failures(
        "stop",
        "if the loss or a gradient is not finite: stop, skip (omit the step) or ignore (train on)",
        str,
        _TRAIN,
        choices=ON_NONFINITE,
        metavar="ACTION",
    )
    on_failure: str = _failures(
        "abort",
        "if a rank dies: abort, or continue (without its replica; needs Open MPI 5 and "
        "mpirun --with-ft ulfm)",
        str,
        _TRAIN,
        choices=ON_FAILURE,
        metavar="ACTION",
    )
    memory_check: str = _failures(
        "on",
        "on: refuse a run whose forecast exceeds the available memory; off: start it all the same, "
        "for example if the host may swap or reports too little memory",
        str,
        choices=MEMORY_CHECKS,
        metavar="CHECK",
    )
    heartbeat_timeout: float = _failures(
        30.0,
        "abort if a rank sends no heartbeat for this many seconds",
        seconds(MIN_TIMEOUT_S),
        metavar="SECONDS",
        commands=_ALL,
    )
    stall_timeout: float | None = _failures(
        None,
        "abort if no rank makes progress for this many seconds (default: 300 or the time of 20 "
        "mini-batches, whichever is longer; ten times that before the first mini-batch ends)",
        seconds(MIN_TIMEOUT_S),
        metavar="SECONDS",
        commands=_ALL,
    )
    progress: str = _terminal(
        "auto",
        "progress display: bar (for terminals), lines (for log files), auto or off",
        choices=PROGRESS,
        metavar="STYLE",
    )

    start: Checkpoint | None = None

    @property
    def command(self) -> str:
        return "evaluate" if self.checkpoint else "train"

    @property
    def layout(self) -> Layout:
        return Layout(self.stages, self.replicas, self.chunks, self.parts)

    @property
    def global_batch_size(self) -> int:
        """Number of images in a mini-batch over all replicas."""
        return self.batch_size * self.replicas

    @property
    def model_options(self) -> dict[str, Any]:
        """Values of the options of models, by the fields of `ModelConfig`."""
        options = {name: getattr(self, name) for name in OPTIONS}
        return options | {"matmul": self.matmul or ModelConfig.matmul}

    @property
    def limits(self) -> dict[Phase, int]:
        """Maximum number of mini-batches of each phase in an epoch; 0 for no limit."""
        return {Phase.TRAIN: self.steps, Phase.TEST: self.test_steps}

    def check(self) -> None:
        """Raise InputError if options contradict each other."""
        check_options(self.model, self.model_options)
        check_precision(self.precision, self.backend)
        self._check_parts()
        epoch = self.start.position.epoch if self.start else 0
        if self.resume and 0 < self.epochs <= epoch:
            raise InputError(
                f"nothing left to train: --resume {self.resume} has completed all {self.epochs} "
                f"epochs. Use --epochs {epoch + 1} or more."
            )
        if self.replace_head and not self.start:
            raise InputError(
                "nothing to start from: --replace-head without weights. Use --resume PATH."
            )
        if self.split and self.split_after:
            raise InputError("incompatible options: --split and --split-after. Omit one of them.")
        has_blocks = "blocks" in MODELS[self.model].options
        if has_blocks and not self.split_after and not isinstance(self.split, str):
            blocks_per_stage(self.blocks, self.stages, self.split)
        if self.lr_schedule == ONE_CYCLE and not 0 < self.warm_up < 1:
            raise InputError(
                f"one-cycle needs a warm-up: --lr-schedule {ONE_CYCLE} with --warm-up "
                f"{self.warm_up:g}. Use --warm-up 0.3, or another fraction between 0 and 1."
            )
        if self.trace and self.command == "evaluate" and not self.record:
            raise InputError(
                "no record for the trace: --trace without --record. Use --record FILE, or omit "
                "--trace."
            )
        if self.trace and self.on_failure == "continue":
            raise InputError(
                "incompatible options: --trace and --on-failure continue. Omit one of them."
            )
        self._check_chunks()

    def _check_parts(self) -> None:
        if self.parts == 1 and not self.recompute:
            return
        cut = self.parts > 1
        option = f"--parts {self.parts}" if cut else "--recompute"
        remedy = "--parts 1" if cut else "--no-recompute"
        if not MODELS[self.model].divisible:
            divisible = " or ".join(name for name, entry in MODELS.items() if entry.divisible)
            raise InputError(
                f"not available for this model: {option} with --model {self.model}. Use {remedy}, "
                f"or --model {divisible}."
            )
        if self.backend != "fast":
            raise InputError(
                f"not available for this backend: {option} with --backend {self.backend}. Use "
                f"{remedy}, or --backend fast."
            )

    def _check_chunks(self) -> None:
        if self.chunks > self.batch_size:
            raise InputError(
                f"too many micro-batches: --chunks {self.chunks} for --batch-size "
                f"{self.batch_size}. Use --chunks {self.batch_size} or fewer, or a larger "
                f"--batch-size."
            )


@dataclass(frozen=True)
class InferConfig(RunConfig):
    """Options of `vigmpi infer`."""

    batch_size: int = _requests(
        16,
        "largest number of images that a stage processes at a time",
        whole_number(1),
        _INFER,
        metavar="N",
    )
    images: Path | None = _requests(
        None,
        "images to classify (required): a .npy file of uint8 pixels [images, height, width, 3], or "
        "of normalized float32 values [images, 3, height, width]",
        file_path,
        _INFER,
        metavar="FILE",
    )
    output: Path | None = _requests(
        None,
        ".npy file of the logits to write, [requests, classes] (default: without --times, a table "
        "of the most probable classes is printed)",
        file_path,
        _INFER,
        metavar="FILE",
    )
    arrivals: Path | None = _requests(
        None,
        ".npy file of the seconds at which requests for an image each arrive, ascending float64; "
        "they take the images and the replicas in turn (default: one for each image, all at once)",
        file_path,
        _INFER,
        metavar="FILE",
    )
    in_flight: int = _requests(
        0,
        "number of requests that each replica has at any time: one arrives when another is "
        "answered; 0 for no limit",
        whole_number(0),
        _INFER,
        metavar="K",
    )
    requests: int = _requests(
        0,
        "number of requests for --in-flight; 0 for one for each image",
        whole_number(0, MAX_REQUESTS),
        _INFER,
        metavar="N",
    )
    batch_wait_ms: float = _requests(
        0.0,
        "milliseconds that a request waits for others in its batch",
        non_negative_number,
        _INFER,
        metavar="X",
    )
    times: Path | None = _requests(
        None,
        ".npy file to write, [requests, 1 + 2 S]: the arrival of each request, and the start and "
        "end of its batch on each stage, in seconds",
        file_path,
        _INFER,
        metavar="FILE",
    )

    def check(self) -> None:
        """Raise InputError if options contradict each other."""
        super().check()
        if self.images is None:
            raise InputError("no images: --images is missing. Use vigmpi infer --images FILE.npy.")
        if self.arrivals and self.in_flight:
            raise InputError("two kinds of load: --arrivals and --in-flight. Use one of them.")
        if self.requests and not self.in_flight:
            raise InputError(
                "option without another: --requests without --in-flight. Use both or none."
            )


CONFIGS: dict[str, type[RunConfig]] = {
    "train": RunConfig,
    "evaluate": RunConfig,
    "infer": InferConfig,
}
