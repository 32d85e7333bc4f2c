"""`python -m data.prepare SOURCE`: bring images into the one file that runs read."""

import argparse
import hashlib
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from data.members import members
from data.original import Original, is_original
from data.output import Output
from data.pictures import Pictures
from data.source import Source
from vigmpi.datasets.picture import RESAMPLE
from vigmpi.datasets.prepared_header import MOST_SIDE
from vigmpi.errors import InputError

_ARCHIVE_SUFFIXES = (".tar", ".zip", ".gz", ".bz2", ".xz", ".tgz")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; type: {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m data.prepare", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "source",
        type=Path,
        metavar="SOURCE",
        help="CIFAR-10 as published (python or binary version), or images as train/CLASS/IMAGE and "
        "test/CLASS/IMAGE; a folder, .tar, .tar.gz, .tar.xz or .zip",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="(default: data/cifar10.h5, or data/SOURCE.h5 of other images)",
    )
    parser.add_argument(
        "--image-size",
        type=_side,
        default=32,
        metavar="N",
        help=f"images are brought to N x N pixels by Pillow's {RESAMPLE.name} filter (default: 32)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    return parser


def _side(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= MOST_SIDE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to {MOST_SIDE}")
    return int(text)


def prepare(path: Path, output: Path | None, image_size: int, *, overwrite: bool) -> Path:
    """Write the prepared file; return where it is.

    Raises:
        InputError: the source is not what it should be, or the file cannot be written.
    """
    if not path.exists():
        raise InputError(f"{path} is not there; type: the path of an archive or a folder")
    names = [(member.name, member.is_folder) for member in members(path)]
    original = is_original(name for name, _ in names)
    source: Source = Original(path, image_size) if original else Pictures(path, names, image_size)
    output = output or Path("data") / f"{'cifar10' if original else _stem(path)}.h5"
    about = {"source": path.resolve().name, "resize_filter": RESAMPLE.name}
    if path.is_file():
        with path.open("rb") as file:
            about["source_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    sides = image_size, image_size
    with (
        Output(output, source.samples, sides, overwrite=overwrite) as file,
        tqdm(total=sum(source.samples.values()), unit=" images", disable=None) as bar,
    ):
        for some in source.read():
            file.write(some)
            bar.update(len(some.rows))
        file.finish(source.classes, about)
    return output


def _stem(path: Path) -> str:
    name = path.resolve().name
    while name.endswith(_ARCHIVE_SUFFIXES):
        name = name.rpartition(".")[0]
    return name


def main(arguments: Sequence[str]) -> int:
    try:
        settings = _parser().parse_args(arguments)
        output = prepare(
            settings.source,
            settings.output,
            settings.image_size,
            overwrite=settings.overwrite,
        )
    except InputError as error:
        print(f"vigmpi: error: {error}", file=sys.stderr)
        return 2
    print(f"prepared: {output}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # tidy up first
    sys.exit(main(sys.argv[1:]))
