"""`vigmpi prepare`: conversion of an archive or a folder of images to a prepared file."""

import hashlib
from pathlib import Path

from vigmpi.cli.config import PrepareConfig
from vigmpi.datasets.decoding import RESAMPLING
from vigmpi.datasets.prepared_header import MAX_SIDE
from vigmpi.errors import InputError
from vigmpi.prepare.cifar10_archive import Cifar10Archive, is_cifar10_archive
from vigmpi.prepare.image_files import ImageFiles
from vigmpi.prepare.members import members
from vigmpi.prepare.source import Source
from vigmpi.prepare.writer import PreparedFileWriter
from vigmpi.standard_streams import print_result
from vigmpi.terminal.progress_bar import progress_bar

_ARCHIVE_SUFFIXES = (".tar", ".zip", ".gz", ".bz2", ".xz", ".tgz")


def prepare(config: PrepareConfig) -> None:
    """Write the prepared file and print its path.

    Raises:
        InputError: if the source is missing, damaged or not laid out as expected, or if the
            file cannot be written.
    """
    if config.image_size > MAX_SIDE:
        raise InputError(
            f"images too large: --image-size {config.image_size}. Use --image-size {MAX_SIDE} or "
            f"less, because each pixel is a node of the graph."
        )
    if not config.source.exists():
        raise InputError(
            f"source not found: {config.source}. Use the path of an archive or a folder."
        )
    print_result(f"prepared: {_prepare(config)}")


def _prepare(config: PrepareConfig) -> Path:
    entries = [(member.name, member.is_folder) for member in members(config.source)]
    source: Source
    if is_cifar10_archive(name for name, _ in entries):
        source, name = Cifar10Archive(config.source, config.image_size), "cifar10"
    else:
        source, name = ImageFiles(config.source, entries, config.image_size), _stem(config.source)
    output = config.output or Path("data") / f"{name}.h5"
    if config.output is None:
        output.parent.mkdir(exist_ok=True)
    attributes = {"source": config.source.resolve().name, "resize_filter": RESAMPLING.name}
    if config.source.is_file():
        with config.source.open("rb") as file:
            attributes["source_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    size = config.image_size, config.image_size
    with (
        PreparedFileWriter(output, source.num_images, size, overwrite=config.overwrite) as writer,
        progress_bar(total=sum(source.num_images.values()), unit=" images", disable=None) as bar,
    ):
        for batch in source.read():
            writer.write(batch)
            bar.update(len(batch.rows))
        writer.finish(source.class_names, attributes)
    return output


def _stem(path: Path) -> str:
    name = path.resolve().name
    while name.endswith(_ARCHIVE_SUFFIXES):
        name = name.rpartition(".")[0]
    return name
