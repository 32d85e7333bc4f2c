import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vigmpi.checkpoint import manifest
from vigmpi.checkpoint.manifest import Manifest, Shard
from vigmpi.errors import InputError
from vigmpi.models.config import ModelConfig
from vigmpi.phase import Phase
from vigmpi.position import Position

MANIFEST = Manifest(
    run="1a",
    created=12.5,
    position=Position(37, 1, Phase.TEST, 5, 1000),
    settings={"stages": 2, "split": [4, 4], "lr": 1e-4, "dataset": "digits", "trace": False},
    model="study",
    model_config=ModelConfig(num_classes=2, image_size=(32, 30), blocks=1, readout="mean"),
    class_names=["cat", "dög"],
    normalization=[[0.5, 0.25, 0.125], [0.2, 0.1, 0.3]],
    layers={"stem": {"w": 0, "optimizer.step.w": 1}, "pool": {}, "head": {"b": 1}},
    shards=[Shard(f"{rank}.safetensors", 7, 32 * f"{rank}f") for rank in range(2)],
    starts=3,
)


def write(folder: Path, text: bytes) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / manifest.NAME).write_bytes(text)
    return folder


def test_a_manifest_is_read_back_as_written_with_its_layers_in_order(tmp_path: Path) -> None:
    found = manifest.read(write(tmp_path / "a", MANIFEST.encode()))
    assert found == MANIFEST
    assert list(found.layers) == ["stem", "pool", "head"]
    assert found.tensors_of(1) == {"optimizer.step.w", "b"}


def test_an_earlier_format_has_no_number_of_starts(tmp_path: Path) -> None:
    body = json.loads(MANIFEST.encode())["checkpoint"]
    del body["starts"]
    body["format"] = "vigmpi checkpoint 5"
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    text = json.dumps({"sha256": digest, "checkpoint": body}).encode()
    assert manifest.read(write(tmp_path / "a", text)) == replace(MANIFEST, starts=0)


def test_options_of_other_models_have_today_s_defaults(tmp_path: Path) -> None:
    """The default of --readout was "sum" when earlier versions stored it for every model."""
    config = {**asdict(ModelConfig(num_classes=2)), "readout": "sum"}
    for model, readout in (("vig_cifar", ModelConfig.readout), ("study", "sum")):
        text = signed(model=model, model_config=config)
        found = manifest.read(write(tmp_path / "a", text))
        assert found.model_config.readout == readout


def test_a_hundred_layers_with_sixty_tensors_fit_into_the_limit() -> None:
    name = "optimizer.exp_avg_sq.blocks.{}.grapher.graph_conv.lin_root.{:02}.weight"
    layers = {
        f"block {block}": {name.format(block, tensor): 12 for tensor in range(60)}
        for block in range(100)
    }
    text = replace(MANIFEST, layers=layers).encode()
    assert len(text) < manifest.MANIFEST_BYTES


@given(st.data())
def test_a_damaged_manifest_is_never_accepted(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Truncate the manifest anywhere, or change any byte to any other."""
    text = MANIFEST.encode()
    at = data.draw(st.integers(0, len(text) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != text[at]))
    folder = tmp_path_factory.mktemp("damaged")
    for damaged in (text[:at], text[:at] + bytes([byte]) + text[at + 1 :]):
        (folder / manifest.NAME).write_bytes(damaged)
        try:
            content = manifest.read(folder)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert content == MANIFEST  # other white space or notation of a number


def signed(**changes: object) -> bytes:
    """Return a manifest with changed content and a matching digest."""
    body = json.loads(MANIFEST.encode())["checkpoint"] | changes
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return json.dumps({"sha256": digest, "checkpoint": body}).encode()


def shard(**changes: object) -> dict[str, Any]:
    return {"name": "0.safetensors", "size_bytes": 1, "sha256": 32 * "0f"} | changes


def with_tensors(*layers: object) -> bytes:
    return signed(layers=[{"name": f"layer {i}", "tensors": each} for i, each in enumerate(layers)])


def with_config(**changes: object) -> bytes:
    config = {"num_classes": 2, "image_size": [32, 30], "blocks": 1, "readout": "sum"}
    config |= {"conv": "mr", "drop_path": 0.0, "precision": "fp32", "matmul": "blas"}
    return signed(model_config=config | changes)


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 100_000,
        b"{}",
        b"[1]",
        b"null",
        b" " * (2**20 + 1),
        b'{"sha256": "", "sha256": ""}',
        b"\xff\xfe",
        signed(position={"mini_batches": 1, "images": 2}),
        signed(shards=[shard(name="../0.safetensors")]),
        signed(shards=[shard(name="/etc/passwd")]),
        signed(shards=3),
        signed(shards=[shard(name=5)]),
        signed(shards=[shard(), shard()]),
        signed(shards=[shard(), shard(name="1.safetensors", size_bytes="1")]),
        signed(shards=[shard(), shard(name="1.safetensors", size_bytes=-1)]),
        signed(shards=[shard(), shard(name="1.safetensors", size_bytes=2**32 + 1)]),
        signed(shards=[shard(), shard(name="1.safetensors", sha256="")]),
        signed(shards=[shard(), shard(name="1.safetensors", sha256=None)]),
        signed(shards=[shard(), shard(name="1.safetensors", **{"x" * 100_000: 1})]),
        signed(position={"epoch": -1}),
        signed(position={"epoch": "1"}),
        signed(position={"phase": "sleep"}),
        signed(position={"mini_batches": 1, "era": 2}),
        signed(settings=[1]),
        signed(created="soon"),
        signed(starts=-1),
        signed(starts="1"),
        signed(class_names=7),
        signed(class_names=["cat"]),
        signed(normalization=[[1.0], [1.0]]),
        signed(model=["study"]),
        signed(model_config=[]),
        signed(model_config={"num_classes": 2}),
        with_config(image_size=[1]),
        with_config(image_size="32"),
        with_config(image_size=[0, 32]),
        with_config(image_size=[2**40, 32]),
        with_config(num_classes=True),
        with_config(blocks=-1),
        with_config(blocks=1.5),
        with_config(width=3),
        with_config(readout="max"),
        with_config(conv="cnn"),
        with_config(drop_path="much"),
        signed(layers=3),
        signed(layers={"stem": {"w": 0}}),
        signed(layers=[{"name": "stem", "tensors": {}}, {"name": "stem", "tensors": {}}]),
        with_tensors([["w", 0]]),
        with_tensors({"w": 2}),
        with_tensors({"w": -1}),
        with_tensors({"w": 10**9}),
        with_tensors({"w": "0"}),
        with_tensors({"w": 0.0}),
        with_tensors({"w": True}),
        with_tensors({"w": None}),
        with_tensors({"w": [0]}),
        with_tensors({"w": 0}, {"w": 1}),
        with_tensors({"w": 0}).replace(b'{"w": 0}', b'{"w": 0, "w": 0}'),
    ],
)
def test_a_hostile_manifest_is_refused_in_one_line(tmp_path: Path, text: bytes) -> None:
    folder = write(tmp_path / "a", text)
    with pytest.raises(InputError, match=r"^damaged checkpoint: .*manifest\.json \(") as error:
        manifest.read(folder)
    assert "digest does not match" not in str(error.value)  # it is refused for its content
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500 + len(str(folder))


def test_the_hostile_manifests_differ_from_valid_ones_by_a_single_fault(tmp_path: Path) -> None:
    shards = [shard(), shard(name="1.safetensors")]
    for text in (signed(), signed(shards=shards), with_config(), with_tensors({"w": 1}, {"b": 1})):
        manifest.read(write(tmp_path / "a", text))


def test_the_order_of_layers_is_protected_by_the_digest(tmp_path: Path) -> None:
    content = json.loads(MANIFEST.encode())
    content["checkpoint"]["layers"].reverse()
    folder = write(tmp_path / "a", json.dumps(content).encode())
    with pytest.raises(InputError, match="digest does not match"):
        manifest.read(folder)


def test_an_unknown_model_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", signed(model="transformer"))
    with pytest.raises(InputError, match=r'^checkpoint of an unknown model: .* has "transformer"'):
        manifest.read(folder)
