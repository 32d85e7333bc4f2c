"""The manifest of a checkpoint, which README.md describes, and its errors."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from vigmpi.errors import InputError
from vigmpi.models import MODELS
from vigmpi.models.config import (
    CONVOLUTIONS,
    MATMULS,
    OPTIONS,
    PRECISIONS,
    READOUTS,
    ModelConfig,
)
from vigmpi.phase import Phase
from vigmpi.position import Position

NAME = "manifest.json"
MANIFEST_BYTES = 2**20  # 100 of the study's blocks with their optimizer state need 0.5 MB
SHARD_BYTES = 2**32
_FORMAT = "vigmpi checkpoint 6"
_EARLIER = "vigmpi checkpoint 5"  # has no `starts`
_SHARD = re.compile(r"[0-9]{1,9}\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_COUNT = 2**20  # classes, pixels of a side, blocks
_USE_ANOTHER = "Use the path of another checkpoint, or omit --resume to start from the beginning."


class DamagedError(InputError):
    """A file of a checkpoint that is damaged or cannot be read; an older checkpoint may be used."""


@dataclass(frozen=True)
class Shard:
    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Description of a checkpoint.

    Attributes:
        run: identifier of the run that wrote it.
        created: seconds since 1970.
        position: where the run stood.
        settings: the run's options, by the names of the fields of `RunConfig`, and the seconds of
            its layers if its split was measured.
        model, model_config: key of `MODELS`, and the configuration that its function takes.
        class_names: name of each logit's class.
        normalization: means and standard deviations by which the image channels were
            standardized; empty without standardization.
        layers: the model's layers in order; for each of them, the index in `shards` of every
            tensor of its weights, running statistics and optimizer state.
        shards: the files that hold the tensors.
        starts: number of times that the run had been started or resumed.
    """

    run: str
    created: float
    position: Position
    settings: Mapping[str, Any]
    model: str
    model_config: ModelConfig
    class_names: Sequence[str]
    normalization: Sequence[Sequence[float]] = ()
    layers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    shards: Sequence[Shard] = ()
    starts: int = 0

    def encode(self) -> bytes:
        # Layers are a list, because the digest ignores the order of an object's keys.
        layers = [{"name": name, "tensors": tensors} for name, tensors in self.layers.items()]
        position = self.position._asdict()
        body = {"format": _FORMAT, **asdict(self), "position": position, "layers": layers}
        return json.dumps({"sha256": _digest(body), "checkpoint": body}, indent=1).encode()

    def tensors_of(self, shard: int) -> set[str]:
        """Return the names of the tensors that a shard holds."""
        return {
            name
            for tensors in self.layers.values()
            for name, index in tensors.items()
            if index == shard
        }


def read(folder: Path) -> Manifest:
    """Read a checkpoint's manifest.

    Raises:
        InputError: if it cannot be read, is damaged, or has an unsupported format or model.
    """
    path = folder / NAME
    try:
        with path.open("rb") as file:
            text = file.read(MANIFEST_BYTES + 1)
        if len(text) > MANIFEST_BYTES:
            raise ValueError("larger than 1 MiB")
        return _decode(json.loads(text, object_pairs_hook=_without_duplicates), path)
    except OSError as error:
        raise damage("unreadable", path, error.strerror) from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise damage("damaged", path, str(error) or type(error).__name__) from error


def damage(problem: str, path: Path, cause: str | None) -> DamagedError:
    """Return the error for an unreadable or damaged file of a checkpoint."""
    return DamagedError(f"{problem} checkpoint: {path} ({cause!s:.200}). {_USE_ANOTHER}")


def refusal(reason: str) -> InputError:
    """Return the error that refuses a checkpoint for a reason other than damage."""
    return InputError(f"{reason}. {_USE_ANOTHER}")


def reason_of(error: InputError) -> str:
    """Return the message of an error without its remedy, the use of another checkpoint."""
    return str(error).removesuffix(f". {_USE_ANOTHER}")


def _digest(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(names := dict(pairs)) < len(pairs):
        raise ValueError("duplicate name")
    return names


def _decode(content: Any, path: Path) -> Manifest:
    body = content["checkpoint"]
    if content["sha256"] != _digest(body):
        raise ValueError("digest does not match")
    if (version := body["format"]) not in (_FORMAT, _EARLIER):
        raise refusal(
            f'unsupported checkpoint format: {path} has "{version!s:.40}", this version reads '
            f'"{_EARLIER}" and "{_FORMAT}"'
        )
    if (model := body["model"]) not in MODELS:
        raise refusal(f'checkpoint of an unknown model: {path} has "{model!s:.40}"')
    shards = [_decode_shard(entry) for entry in body["shards"]]
    if len({shard.name for shard in shards}) < len(shards):
        raise ValueError("shard twice")
    manifest = Manifest(
        run=str(body["run"]),
        created=float(body["created"]),
        position=_decode_position(body["position"]),
        settings=dict(body["settings"]),
        model=model,
        model_config=_decode_model_config(body["model_config"], model),
        class_names=[str(name) for name in body["class_names"]],
        normalization=[[float(value) for value in row] for row in body["normalization"]],
        layers=_decode_layers(body["layers"], len(shards)),
        shards=shards,
        starts=body["starts"] if version == _FORMAT else 0,
    )
    if not _is_count(manifest.starts, math.inf):
        raise ValueError("invalid number of starts")
    if len(manifest.class_names) != manifest.model_config.num_classes:
        raise ValueError("another number of names than of classes")
    if [len(row) for row in manifest.normalization] not in ([], [3, 3]):
        raise ValueError("invalid normalization")
    return manifest


def _decode_position(entry: Any) -> Position:
    position = Position(**entry)
    counts = position.mini_batches, position.epoch, position.step, position.num_images
    if not all(_is_count(number, math.inf) for number in counts):
        raise ValueError("invalid position")
    return position._replace(phase=Phase(position.phase))


def _decode_model_config(entry: Any, model: str) -> ModelConfig:
    config = ModelConfig(**entry)
    height, width = config.image_size
    counts = config.num_classes, height, width, config.blocks
    complete = entry.keys() == {f.name for f in fields(ModelConfig)}
    if not complete or not all(_is_count(number, _MAX_COUNT) and number for number in counts):
        raise ValueError("invalid configuration of the model")
    if config.readout not in READOUTS or config.conv not in CONVOLUTIONS:
        raise ValueError("unknown readout or graph convolution")
    if config.precision not in PRECISIONS or config.matmul not in MATMULS:
        raise ValueError("unknown precision or library of products")
    config = replace(config, image_size=(height, width), drop_path=float(config.drop_path))
    # The default of another model's option may have changed since the run.
    others = set(OPTIONS) - set(MODELS[model].options)
    return replace(config, **{name: getattr(ModelConfig, name) for name in others})


def _decode_shard(entry: Any) -> Shard:
    shard = Shard(**entry)
    if not _SHARD.fullmatch(shard.name):
        raise ValueError(f"invalid name of a shard: {shard.name!r}")
    if not _is_count(shard.size_bytes, SHARD_BYTES) or not _SHA256.fullmatch(shard.sha256):
        raise ValueError(f"invalid size or digest of a shard: {shard.name}")
    return shard


def _decode_layers(entries: Any, num_shards: int) -> dict[str, dict[str, int]]:
    layers: dict[str, dict[str, int]] = {}
    names: set[str] = set()
    for entry in entries:
        layer, tensors = str(entry["name"]), entry["tensors"]
        for name, shard in tensors.items():
            if not _is_count(shard, num_shards - 1):
                raise ValueError(f"no shard {shard!r} for tensor {name}")
        if layer in layers or not names.isdisjoint(tensors):
            raise ValueError(f"layer or tensor twice: {layer}")
        layers[layer] = tensors
        names.update(tensors)
    return layers


def _is_count(number: Any, largest: float) -> bool:
    return type(number) is int and 0 <= number <= largest
