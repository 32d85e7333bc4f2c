"""The argument parser of each command."""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import Field
from typing import Any, NoReturn

from vigmpi.cli.config import (
    DTYPES,
    EXPORT_FORMATS,
    FORMATS,
    MIN_TIMEOUT_S,
    NO_EMA_HELP,
    ExportConfig,
)
from vigmpi.cli.values import (
    MAX_EXPORTED_BATCH,
    MAX_SEED,
    MAX_SIDE,
    MAX_THREADS,
    file_path,
    image_size,
    list_of,
    path,
    positive_number,
    proper_fraction,
    seconds,
    whole_number,
)
from vigmpi.errors import InputError
from vigmpi.models import MODELS
from vigmpi.models.config import CONVOLUTIONS
from vigmpi.start_limit import DEFAULT_S

COMMANDS = {
    "train": "train a model (the default command)",
    "evaluate": "measure the loss and accuracy of a trained model on the test images",
    "predict": "classify image files with a trained model",
    "infer": "classify a file of images on a pipeline, or answer requests that arrive over time",
    "load-test": "measure the latencies and rates of a program that answers requests",
    "export": "write a trained model as a library that runs without Python",
    "models": "list the models, or the layers of one",
    "prepare": "convert an archive or a folder of images to a data file",
}
_USAGE = "[mpirun -n RANKS] vigmpi {} [options]   (RANKS = {})"
_DESCRIPTIONS = {
    "train": (
        "Train a Vision GNN on MPI ranks: R replicas of a pipeline of S stages, which cut images "
        "into P parts.\n"
        "python -m vigmpi is the same program as vigmpi.\n\n"
        "commands (vigmpi COMMAND --help describes each):\n"
        + "\n".join(f"  {name:10}{text}" for name, text in COMMANDS.items())
    ),
    "evaluate": "Measure the loss and accuracy of a trained model on the test images.",
    "infer": (
        "Classify images on MPI ranks: R replicas of a pipeline of S stages.\n\n"
        "A request is one image. Those that wait are grouped into batches, which a first stage "
        "begins\nas soon as fewer than three are on their way to the next one."
    ),
}
_EXAMPLES = {
    "train": (
        ("one rank", "vigmpi train"),
        (
            "4 ranks: 2 replicas of a 2-stage pipeline",
            "mpirun -n 4 vigmpi train --stages 2 --replicas 2 --chunks 5",
        ),
        (
            "your own images",
            "vigmpi prepare photos.zip && vigmpi train --dataset folder --data-dir data/photos.h5",
        ),
        ("options from a file", "vigmpi train --config run.toml"),
        ("continue the latest run of this folder", "mpirun -n 4 vigmpi train --resume latest"),
    ),
    "evaluate": (
        ("one rank", "vigmpi evaluate --checkpoint run.h5.checkpoints"),
        ("a pipeline", "mpirun -n 2 vigmpi evaluate --checkpoint run.h5.checkpoints --stages 2"),
    ),
    "infer": (
        (
            "a pipeline",
            "mpirun -n 2 vigmpi infer --checkpoint run.h5.checkpoints --images a.npy --stages 2",
        ),
    ),
    "load-test": (
        (
            "capacity, and latency at two rates",
            "vigmpi load-test --output load.h5 --rates 100,200 -- mpirun -n 2 vigmpi infer "
            "--checkpoint run.h5.checkpoints --images a.npy --stages 2",
        ),
        (
            "an exported pipeline",
            "vigmpi load-test --output load.h5 --bound-ms 50 -- mpiexec -n 2 model/vigmpi_infer "
            "model a.npy --stages 2",
        ),
    ),
    "models": (
        ("all models", "vigmpi models"),
        ("the layers of one", "vigmpi models pvig_ti --image-size 256"),
    ),
    "predict": (
        ("a table", "vigmpi predict --checkpoint run.h5.checkpoints cat.jpg dog.png"),
        (
            "all images of a folder",
            "vigmpi predict --checkpoint run.h5.checkpoints photos --format csv > photos.csv",
        ),
    ),
    "export": (
        (
            "compiled packages and an MPI program",
            "vigmpi export --checkpoint run.h5.checkpoints --output model --build",
        ),
        (
            "the study's model in C",
            "vigmpi export --checkpoint run.h5.checkpoints --format c --output study --build",
        ),
    ),
    "prepare": (
        ("your own images", "vigmpi prepare photos.zip --image-size 64 --preview photos.png"),
        ("class folders without test images", "vigmpi prepare photos --test-share 0.2"),
        ("CIFAR-10", "vigmpi prepare cifar-10-python.tar.gz"),
    ),
}


_CHECKPOINT_HELP = (
    "a checkpoint, a folder of checkpoints, a file of the study's weights, or 'latest'"
)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from vigmpi.versions import installed_version  # noqa: PLC0415 (as long as all parsing)

        print(f"vigmpi {installed_version('vigmpi')}")
        parser.exit()


class _Parser(argparse.ArgumentParser):
    def __init__(self, command: str, **arguments: Any) -> None:
        examples = "\n".join(f"  {use}:\n    {line}" for use, line in _EXAMPLES[command])
        super().__init__(
            prog=f"vigmpi {command}",
            epilog=f"examples:\n{examples}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **arguments,
        )
        text = "print the version and exit"
        self.add_argument(
            "--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help=text
        )

    def error(self, message: str) -> NoReturn:
        # argparse writes "argument --x: problem" and "the following arguments are required: x".
        problem = message.replace("invalid choice: ", "")
        if problem.startswith("argument "):
            problem = f"invalid value for {problem.removeprefix('argument ')}"
        raise InputError(f"{problem}. See {self.prog} --help.")


def run_parser(command: str, options: Mapping[str, Field]) -> argparse.ArgumentParser:
    """Return the parser of a command on ranks, whose result holds only the options given."""
    parser = _Parser(
        command,
        usage=_USAGE.format(command, "S x R" if command == "infer" else "S x R x P"),
        description=_DESCRIPTIONS[command],
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument(
        "--config", type=path, metavar="FILE", help="TOML file of options; flags take precedence"
    )
    parser.add_argument(
        "--start-timeout",
        type=seconds(MIN_TIMEOUT_S),
        metavar="SECONDS",
        help="end if not all ranks have met after this many seconds, for example because a host "
        f"is missing; a flag only, not a key of the TOML file (default: {DEFAULT_S:g})",
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for option in sorted(options.values(), key=lambda option: option.name != "checkpoint"):
        argument: dict[str, Any] = dict(option.metadata["argument"])
        if isinstance(option.default, bool):
            del argument["type"]
            negative = option.name.startswith("no_")
            argument["action"] = "store_true" if negative else argparse.BooleanOptionalAction
            argument["help"] += "" if negative else " (default: off)"
        elif option.default is not None:
            argument["help"] += f" (default: {option.default})"
        title = option.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        groups[title].add_argument(f"--{flag(option.name)}", **argument)
    return parser


def predict_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "predict", description="Print the most probable classes of images, on one rank."
    )
    parser.add_argument(
        "images",
        nargs="+",
        type=path,
        metavar="IMAGE",
        help="image files, folders of images, or quoted patterns such as 'photos/**/*.jpg'",
    )
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help=_CHECKPOINT_HELP)
    parser.add_argument("--no-ema", action="store_true", help=NO_EMA_HELP)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default=FORMATS[0],
        metavar="NAME",
        help="format of the output: table (the most probable classes), csv or json (all "
        "probabilities) (default: table)",
    )
    return parser


def export_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "export",
        description="Write the layers of a trained model for programs without Python.",
    )
    parser.add_argument("--checkpoint", required=True, metavar="PATH", help=_CHECKPOINT_HELP)
    parser.add_argument("--no-ema", action="store_true", help=NO_EMA_HELP)
    parser.add_argument(
        "--format",
        choices=EXPORT_FORMATS,
        default=EXPORT_FORMATS[0],
        metavar="NAME",
        help="packages: compiled by torch's AOTInductor, for all models (default); c: a "
        "self-contained C library, for the study's model",
    )
    parser.add_argument(
        "--output", required=True, type=path, metavar="FOLDER", help="folder to write"
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default=DTYPES[0],
        metavar="NAME",
        help="type of the packages' values: float32 (default) or float64",
    )
    parser.add_argument(
        "--max-batch-size",
        type=whole_number(3, MAX_EXPORTED_BATCH),
        default=ExportConfig.max_batch_size,
        metavar="N",
        help="largest number of images that the packages take at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=whole_number(1, MAX_THREADS),
        default=1,
        metavar="N",
        help="threads for which the packages are compiled (default: %(default)s)",
    )
    parser.add_argument(
        "--build",
        action="store_true",
        help="compile the library with cc and c++ for this machine's processor, compare its "
        "results, and compile the MPI program vigmpi_infer with mpicxx",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing export")
    return parser


def load_test_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "load-test",
        description="Run a program that answers requests, once for each of several loads.\n"
        "Latency counts from the scheduled arrival of a request, even if the program is late.",
        usage="vigmpi load-test --output FILE [options] -- COMMAND...",
    )
    parser.add_argument(
        "command",
        nargs="+",
        metavar="COMMAND",
        help="command of vigmpi infer or of an exported vigmpi_infer, behind --",
    )
    parser.add_argument(
        "--output", required=True, type=file_path, metavar="FILE", help="HDF5 file to write"
    )
    parser.add_argument(
        "--in-flight",
        type=list_of(whole_number(1)),
        default=(1, 64),
        metavar="K,K",
        help="closed loops: numbers of requests in flight on each replica (default: 1,64)",
    )
    parser.add_argument(
        "--rates",
        type=list_of(positive_number),
        default=(),
        metavar="X,X",
        help="open loops: rates of Poisson arrivals, in requests per second",
    )
    parser.add_argument(
        "--bound-ms",
        type=positive_number,
        default=0.0,
        metavar="X",
        help="search for the largest rate whose 99th percentile of latencies is within X ms",
    )
    parser.add_argument(
        "--requests",
        type=whole_number(2),
        default=1000,
        metavar="N",
        help="number of requests of each load (default: %(default)s)",
    )
    parser.add_argument(
        "--warm-up",
        type=whole_number(0),
        default=100,
        metavar="N",
        help="number of requests at the start that do not count (default: %(default)s)",
    )
    parser.add_argument(
        "--seed", type=whole_number(0, MAX_SEED), default=0, metavar="N", help="of the arrivals"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser


def models_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "models",
        description="List all models or, with NAME, the layers of one: shapes, parameters, "
        "multiply-adds per image (reference backend) and possible cuts.",
    )
    parser.add_argument(
        "name", nargs="?", choices=[*MODELS], metavar="NAME", help="name of a model"
    )
    parser.add_argument(
        "--image-size",
        type=image_size,
        metavar="N|HxW",
        help="height and width of the image, in pixels (default: the published size)",
    )
    parser.add_argument(
        "--conv",
        choices=CONVOLUTIONS,
        default="mr",
        metavar="NAME",
        help="graph convolution of the published models: mr, edge, sage or gin (default: mr)",
    )
    return parser


def prepare_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "prepare", description="Convert an archive or a folder of images to one HDF5 file."
    )
    parser.add_argument(
        "source",
        type=path,
        metavar="SOURCE",
        help="CIFAR-10 as published (python or binary version), or images in "
        "train/CLASS/IMAGE and test/CLASS/IMAGE (or val/), or in CLASS/IMAGE with --test-share; a "
        "folder, or a .tar, .tar.gz, .tar.bz2, .tar.xz or .zip archive",
    )
    parser.add_argument(
        "--output",
        type=file_path,
        metavar="FILE",
        help="file to write (default: data/cifar10.h5 for CIFAR-10, data/NAME.h5 for NAME.zip)",
    )
    parser.add_argument(
        "--image-size",
        type=whole_number(1, MAX_SIDE),
        default=32,
        metavar="N",
        help="resize each whole image to N x N pixels with Pillow's Lanczos filter (default: 32)",
    )
    parser.add_argument(
        "--test-share",
        type=proper_fraction,
        default=0.0,
        metavar="X",
        help="fraction of each class's images to test on, for a source without test images",
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="leave out images that cannot be read, instead of ending; the file names them",
    )
    parser.add_argument(
        "--preview",
        type=file_path,
        metavar="FILE.png",
        help="also write a picture of a few images of each class as the network will see them",
    )
    parser.add_argument(
        "--npy",
        type=file_path,
        metavar="FILE.npy",
        help="also write the test images for vigmpi infer and exported programs",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    return parser


def parse(
    parser: argparse.ArgumentParser, flags: Sequence[str], options: Mapping[str, Field]
) -> dict[str, Any]:
    """Return the values of the options that were given.

    Raises:
        InputError: if an option is unknown or its value is invalid.
    """
    parsed, unknown = parser.parse_known_args(flags)
    if unknown:
        known = [f"--{flag(name)}" for name in options]
        raise InputError(unknown_option(unknown[0], [*known, "--config", "--start-timeout"]))
    return vars(parsed)


def flag(name: str) -> str:
    """Return the flag of an option, without its dashes."""
    return name.replace("_", "-")


def unknown_option(given: str, known: Sequence[str], where: str = "") -> str:
    """Return the error message for an unknown option, with the closest known one.

    Args:
        where: the source of the option, such as " in FILE".
    """
    return _unknown(f"option{where}", given.partition("=")[0], known)


def unknown_command(given: str) -> str:
    """Return the error message for an unknown command, with the closest known one."""
    return _unknown("command", given, list(COMMANDS))


def _unknown(kind: str, given: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(given, known, n=1)
    remedy = f"Use {close[0]} if you meant that" if close else "See vigmpi --help"
    return f"unknown {kind}: {given}. {remedy}."
