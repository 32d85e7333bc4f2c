"""The manifest of an export: a TOML file that C programs read line by line."""

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vigmpi.errors import InputError, error_reason

NAME = "manifest.toml"
_FORMAT = "vigmpi export 1"


@dataclass(frozen=True)
class ExportedLayer:
    """Layer of an export.

    Attributes:
        name: name of the layer.
        inputs, outputs: shapes of an image's values.
        files: name and content of each of its files, by what precedes `file`, `bytes` and `sha256`
            in the names of the keys that describe it.
        values: further keys of its table, with strings, numbers or lists of them.
    """

    name: str
    inputs: Sequence[int]
    outputs: Sequence[int]
    files: Mapping[str, tuple[str, bytes]]
    values: Mapping[str, Any]


def write(folder: Path, values: Mapping[str, Any], layers: Iterable[ExportedLayer]) -> None:
    """Write the files of all layers and, after them, the manifest.

    Args:
        values: what the manifest says about the model; strings, numbers or lists of them.

    Raises:
        OSError: if a file cannot be written.
    """
    lines = _lines({"format": _FORMAT, **values})
    for layer in layers:
        table: dict[str, Any] = {
            "name": layer.name,
            "input": list(layer.inputs),
            "output": list(layer.outputs),
        }
        for prefix, (name, content) in layer.files.items():
            (folder / name).write_bytes(content)
            table[f"{prefix}file"] = name
            table[f"{prefix}bytes"] = len(content)
            table[f"{prefix}sha256"] = hashlib.sha256(content).hexdigest()
        lines += ["", "[[layers]]", *_lines({**table, **layer.values})]
    (folder / NAME).write_text("\n".join([*lines, ""]), encoding="utf-8")


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest's values; `layers` are dictionaries.

    Raises:
        InputError: if it cannot be read or has another format.
    """
    path = folder / NAME
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"cannot read the export: {path} ({error_reason(error)}). Use a folder that vigmpi "
            f"export has written."
        ) from error
    if values.get("format") != _FORMAT:
        raise InputError(
            f"unknown format of an export: {path} ({values.get('format')!s:.80}). Run vigmpi "
            f"export again."
        )
    return values


def _lines(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in values.items()]


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)
