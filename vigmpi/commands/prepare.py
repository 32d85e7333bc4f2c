"""`vigmpi prepare`: conversion of an archive or a folder of images to a prepared file."""

import hashlib
import os
from pathlib import Path

from vigmpi.cli.config import PrepareConfig
from vigmpi.commands.output_path import exists_and_fits
from vigmpi.commands.prepare_summary import summary
from vigmpi.datasets.decoding import RESAMPLING
from vigmpi.datasets.file_tree import listed, printable
from vigmpi.datasets.prepared import PreparedFile
from vigmpi.errors import InputError, RunError, error_reason
from vigmpi.prepare.cifar10_archive import Cifar10Archive, is_cifar10_archive
from vigmpi.prepare.image_files import ImageFiles
from vigmpi.prepare.members import members
from vigmpi.prepare.pixel_array import save_pixels
from vigmpi.prepare.preview import preview
from vigmpi.prepare.source import Source
from vigmpi.prepare.writer import PreparedFileWriter
from vigmpi.standard_streams import print_result
from vigmpi.terminal.progress_bar import progress_bar

_ARCHIVE_SUFFIXES = (".tar", ".zip", ".gz", ".bz2", ".xz", ".tgz")


def prepare(config: PrepareConfig) -> None:
    """Write the prepared file, describe it, and save its preview and its test images.

    Raises:
        InputError: if the source is missing, damaged or not laid out as expected, or if a file
            cannot be written.
        RunError: if one of the latter cannot be written after the prepared file was.
    """
    try:
        config.source.stat()
    except OSError as error:
        raise InputError(
            f"cannot read source: {config.source} ({error_reason(error)}). Use the path of an "
            f"archive or a folder."
        ) from error
    for option, path in _further_outputs(config).items():
        _check_further_output(option, path, overwrite=config.overwrite)
    source, name = _open_source(config)
    output = config.output or Path("data") / f"{name}.h5"
    _check_outputs(config, output)
    if config.output is None:
        _make_folder(output.parent)
    _write(source, output, config)
    dataset = PreparedFile(output, "folder")
    dataset.load(images=True, labels=True)
    print_result(summary(source, dataset, output))
    for option, path in _further_outputs(config).items():
        try:
            if option == "--preview":
                preview(dataset).save(path, "png")
            else:
                save_pixels(path, dataset)
        except OSError as error:
            raise RunError(
                f"cannot write a file: {option} {path} ({error_reason(error)}); {output} is "
                f"complete. Use {option} with another path and --overwrite."
            ) from error


def _further_outputs(config: PrepareConfig) -> dict[str, Path]:
    """Return the paths of the files beside the prepared one, by their options."""
    paths = {"--preview": config.preview, "--npy": config.npy}
    return {option: path for option, path in paths.items() if path}


def _check_further_output(option: str, path: Path, *, overwrite: bool) -> None:
    exists, fits = exists_and_fits(path)
    if not fits:
        raise InputError(f"cannot write a file: {option} {path}. Use {option} with another path.")
    if exists and not overwrite:
        raise InputError(f"file exists: {path}. Use --overwrite or another {option}.")


def _check_outputs(config: PrepareConfig, output: Path) -> None:
    """Raise InputError if an output would become a part of the source, or replace the other."""
    source = _real(config.source)
    outputs = {"--output": output, **_further_outputs(config)}
    for option, path in outputs.items():
        if source.is_dir() and _real(path).is_relative_to(source):
            raise InputError(
                f"output within the source: {path} in {config.source}. Use {option} to write "
                f"elsewhere."
            )
        others = [_real(other) for name, other in outputs.items() if name != option]
        if option != "--output" and _real(path) in others:
            raise InputError(f"two outputs in one file: {path}. Use {option} with another path.")


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises errors for links in a circle


def _open_source(config: PrepareConfig) -> tuple[Source, str]:
    """Return the source and the name of its data set."""
    entries = [(member.name, member.is_folder) for member in members(config.source)]
    if not is_cifar10_archive(name for name, _ in entries):
        source = ImageFiles(config.source, entries, config.image_size, config.test_share)
        return source, _stem(config.source)
    if config.test_share:
        raise InputError(
            f"test images exist: --test-share {config.test_share:g} for CIFAR-10. Omit "
            f"--test-share."
        )
    return Cifar10Archive(config.source, config.image_size), "cifar10"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder: {folder.absolute()}/ ({error_reason(error)}). Use --output "
            f"FILE to write elsewhere."
        ) from error


def _write(source: Source, output: Path, config: PrepareConfig) -> None:
    name = printable(config.source.resolve().name)
    attributes = {"source": name, "resize_filter": RESAMPLING.name}
    if config.source.is_file():
        with config.source.open("rb") as file:
            attributes["source_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    size, total = (config.image_size, config.image_size), sum(source.num_images.values())
    with (
        PreparedFileWriter(
            output,
            source.num_images,
            size,
            overwrite=config.overwrite,
            may_skip=config.skip_unreadable,
        ) as writer,
        progress_bar(total=total, unit=" images", disable=None) as bar,
    ):
        for batch in source.read():
            writer.write(batch)
            bar.update(len(batch.rows))
        if source.unreadable and not config.skip_unreadable:
            raise InputError(
                f"cannot read {len(source.unreadable):,} of {total:,} images: "
                f"{listed(source.unreadable)}. Replace or remove them, or use --skip-unreadable."
            )
        writer.finish(source.class_names, attributes, source.unreadable)


def _stem(path: Path) -> str:
    name = path.resolve().name
    while name.endswith(_ARCHIVE_SUFFIXES):
        name = name.rpartition(".")[0]
    return name
