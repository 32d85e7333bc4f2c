"""Strict loading of a model of three layers from files that hold it, and from others."""

import errno
import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from torch import nn

from tests.weights import flip_a_bit
from vigmpi.checkpoint import manifest, shards
from vigmpi.checkpoint.loading import _resized, check_configuration, load
from vigmpi.checkpoint.manifest import Manifest, Shard
from vigmpi.checkpoint.search import Checkpoint, find
from vigmpi.checkpoint.state import flat, select, share_of_copy, state_by_layer
from vigmpi.checkpoint.tensor_names import is_average, is_of_optimizer
from vigmpi.errors import InputError
from vigmpi.models.config import ModelConfig
from vigmpi.models.layer import Boundary, Layer
from vigmpi.models.model import Model
from vigmpi.pipeline.adamw import AdamW
from vigmpi.pipeline.averages import Averages
from vigmpi.position import Position

State = dict[str, dict[str, torch.Tensor]]
Saved = dict[str, dict[str, np.ndarray]]

LAYERS = [
    Layer("first", partial(nn.Linear, 2, 3), Boundary((2,)), Boundary((3,)), "first."),
    Layer("norm", partial(nn.BatchNorm1d, 3), Boundary((3,)), Boundary((3,)), "norm."),
    Layer("nothing", nn.Identity, Boundary((3,)), Boundary((3,))),
    Layer("head", partial(nn.Linear, 3, 2), Boundary((3,)), Boundary((2,))),
]
MANIFEST = Manifest("run", 0.0, Position(5), {}, "study", ModelConfig(2), ["a", "b"])


def new_state(*, optimizer: bool = True, averages: bool = False) -> State:
    """Return a state with a different number in every element of its tensors."""
    model = Model(LAYERS)
    adam = AdamW(dict(model.named_parameters()), 1e-3)
    state = state_by_layer(
        model,
        adam.state if optimizer else None,
        Averages(model, 0.9).state if averages else None,
    )
    for number, tensor in enumerate(flat(state).values()):
        tensor.copy_(100 * number + torch.arange(tensor.numel()).reshape(tensor.shape))
    return state


def is_of_model(name: str) -> bool:
    return not (is_of_optimizer(name) or is_average(name))


def zeroed(state: State) -> State:
    for tensor in flat(state).values():
        tensor.zero_()
    return state


def arrays(state: State) -> Saved:
    return share_of_copy(state, 0, 1)


def save(
    folder: Path, written: list[Saved], listed: list[Saved] | None = None, created: float = 0.0
) -> Path:
    """Write a checkpoint whose shards hold these layers and whose manifest lists others."""
    folder.mkdir(parents=True)
    layers: dict[str, dict[str, int]] = {}
    entries = []
    for index, shard in enumerate(written):
        content = safetensors.numpy.save(flat(shard))
        entries.append(Shard(f"{index}.safetensors", len(content), _sha256(content)))
        (folder / entries[-1].name).write_bytes(content)
    for index, shard in enumerate(listed or written):
        for layer, tensors in shard.items():
            layers.setdefault(layer, {}).update(dict.fromkeys(tensors, index))
    content = replace(MANIFEST, created=created, layers=layers, shards=entries).encode()
    (folder / manifest.NAME).write_bytes(content)
    return folder


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def start(path: Path) -> Checkpoint:
    found = find(str(path))
    assert found
    return found


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files that are read, in order."""
    names: list[str] = []
    read = shards._read_content

    def counted(path: Path, size_bytes: int) -> bytes:
        names.append(path.name)
        return read(path, size_bytes)

    monkeypatch.setattr(shards, "_read_content", counted)
    return names


def test_names_and_layers_of_a_state_are_those_of_the_complete_model() -> None:
    state = new_state()
    assert list(state) == ["first", "norm", "nothing", "head"]
    assert not state["nothing"]
    assert {"norm.running_var", "norm.num_batches_tracked"} < state["norm"].keys()
    assert "optimizer.exp_avg_sq.weight" in state["head"]
    assert "optimizer.step.first.bias" in state["first"]


def test_every_bit_is_loaded_and_only_the_shards_that_are_needed_are_read_once(
    tmp_path: Path, opened: list[str]
) -> None:
    expected = new_state()
    saved = arrays(expected)
    parts = [{name: saved[name]} for name in saved]
    checkpoint = start(save(tmp_path / "a", [*parts, {}]))
    assert not opened
    for layers, files in (
        (["first", "norm", "nothing", "head"], [0, 1, 3]),
        (["norm", "nothing"], [1]),
        (["nothing"], []),
    ):
        opened.clear()
        state = zeroed(new_state())
        load(checkpoint, expected, {name: state[name] for name in layers})
        for layer, tensors in state.items():
            for name, tensor in tensors.items():
                assert torch.equal(tensor, expected[layer][name]) == (layer in layers), name
        assert opened == [f"{index}.safetensors" for index in files]


def test_replicas_share_the_tensors_of_every_layer() -> None:
    state = new_state()
    shares = [share_of_copy(state, replica, 3) for replica in range(3)]
    assert all(list(share) == list(state) for share in shares)
    names = [name for share in shares for name in flat(share)]
    assert sorted(names) == sorted(flat(state))


def test_an_evaluation_loads_weights_and_statistics_and_no_optimizer(tmp_path: Path) -> None:
    expected = new_state()
    checkpoint = start(save(tmp_path / "a", [arrays(expected)]))
    state = zeroed(new_state(optimizer=False))
    load(checkpoint, state, state)
    for name, tensor in flat(state).items():
        assert torch.equal(tensor, flat(expected)[name]), name


def surplus(saved: Saved) -> Saved:
    return saved | {"norm": saved["norm"] | {"norm.gain": np.zeros(3)}}


def without(layer: str, name: str, saved: Saved) -> Saved:
    return saved | {layer: {each: v for each, v in saved[layer].items() if each != name}}


def in_another_layer(saved: Saved) -> Saved:
    tensor = {"norm.bias": saved["norm"]["norm.bias"]}
    return without("norm", "norm.bias", saved) | {"head": saved["head"] | tensor}


def reshaped(saved: Saved) -> Saved:
    weight = saved["first"]["first.weight"]
    return saved | {"first": saved["first"] | {"first.weight": weight.T.copy()}}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (surplus, "tensor norm.gain, which the model does not have"),
        (partial(without, "first", "first.bias"), "no tensor first.bias"),
        (partial(without, "norm", "norm.running_mean"), "no tensor norm.running_mean"),
        (
            partial(without, "norm", "norm.num_batches_tracked"),
            "no tensor norm.num_batches_tracked",
        ),
        (in_another_layer, "no tensor norm.bias"),
        (reshaped, r"first.weight of shape \[2, 3\] instead of \[3, 2\]"),
        (lambda saved: {"head": saved["head"]} | saved, "layer head instead of first"),
        (
            lambda saved: {name: saved[name] for name in ("first", "norm", "nothing")},
            "no layer head",
        ),
        (
            lambda saved: {name: saved[name] for name in ("first", "norm", "head")},
            "layer head instead of nothing",
        ),
        (lambda saved: saved | {"tail": {}}, "layer tail, which the model does not have"),
        (
            lambda saved: saved | {"tail": {"tail.bias": np.zeros(2)}},
            "layer tail, which the model does not have",
        ),
    ],
)
@pytest.mark.parametrize("optimizer", [True, False])
def test_another_model_is_refused_with_the_first_difference(
    tmp_path: Path, change: Callable[[Saved], Saved], problem: str, optimizer: bool
) -> None:
    """Also if an older checkpoint would fit, and on a rank that the difference does not concern."""
    save(tmp_path / "old", [arrays(new_state())])
    save(tmp_path / "new", [change(arrays(new_state()))], created=1.0)
    state = zeroed(new_state(optimizer=optimizer))
    needed = ["first"] if "shape" in problem else ["nothing"]
    for path in (tmp_path, tmp_path / "new"):
        message = rf"^checkpoint of another model: {tmp_path / 'new'} has {problem}\. Use .*\.$"
        with pytest.raises(InputError, match=message):
            load(start(path), state, {name: state[name] for name in needed})
    assert not any(tensor.any() for tensor in flat(state).values())


@pytest.mark.parametrize("quantity", ["exp_avg", "exp_avg_sq", "step"])
def test_a_checkpoint_without_a_part_of_the_optimizer_can_only_be_evaluated(
    tmp_path: Path, quantity: str
) -> None:
    name = f"optimizer.{quantity}.first.bias"
    checkpoint = start(save(tmp_path / "a", [without("first", name, arrays(new_state()))]))
    state = new_state()
    with pytest.raises(InputError, match=f"has no tensor {name}"):
        load(checkpoint, state, state)
    state = new_state(optimizer=False)
    load(checkpoint, state, state)


def test_a_surplus_tensor_of_the_optimizer_is_refused(tmp_path: Path) -> None:
    saved = arrays(new_state())
    saved["head"]["optimizer.max.bias"] = np.zeros(2, np.float32)
    state = new_state()
    with pytest.raises(InputError, match=r"has tensor optimizer\.max\.bias, which the model does"):
        load(start(save(tmp_path / "a", [saved])), state, state)


def test_a_shard_must_hold_what_the_manifest_lists_and_no_more(tmp_path: Path) -> None:
    saved, state = arrays(new_state()), new_state()
    for folder, written, problem in (
        ("a", surplus(saved), "tensor norm.gain in the shard, but not in the manifest"),
        (
            "b",
            without("head", "bias", saved),
            "tensor bias in the manifest, but not in the shard",
        ),
    ):
        checkpoint = start(save(tmp_path / folder, [written], [saved]))
        with pytest.raises(InputError, match=rf"^damaged checkpoint: .*0\.safetensors \({problem}"):
            load(checkpoint, state, state)


def three_checkpoints(folder: Path) -> None:
    """Write checkpoints whose tensors are full of 0, 1 and 2."""
    saved = arrays(new_state())
    for number in range(3):
        for values in flat(saved).values():
            values.fill(number)
        save(folder / str(number), [saved], created=float(number))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


DAMAGES = pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_bit, "damaged checkpoint: {} (truncated or modified)"),
        (truncate, "damaged checkpoint: {} (truncated or modified)"),
        (Path.unlink, "unreadable checkpoint: {} (No such file or directory)"),
    ],
)


@DAMAGES
def test_a_search_turns_to_the_next_checkpoint_if_a_shard_is_damaged(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    three_checkpoints(tmp_path)
    found = start(tmp_path)
    reasons = []
    for number in (2, 1):
        path = tmp_path / str(number) / "0.safetensors"
        damage(path)
        reasons.append(reason.format(path))
        state = new_state()
        used = load(found, state, state)
        assert used.path == tmp_path / str(number - 1)
        assert used.manifest
        assert used.manifest.created == number - 1
        assert used.skipped == reasons
        for name, tensor in flat(state).items():
            assert (tensor == number - 1).all(), name
    damage(tmp_path / "0" / "0.safetensors")
    with pytest.raises(InputError) as error:
        load(found, state, state)
    assert str(error.value).startswith(f"{reasons[0]}. Use the path of another checkpoint, or ")


@DAMAGES
def test_a_damaged_checkpoint_that_was_named_is_refused(
    tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    three_checkpoints(tmp_path)
    found = start(tmp_path / "2")
    path = tmp_path / "2" / "0.safetensors"
    damage(path)
    state = zeroed(new_state())
    with pytest.raises(InputError) as error:
        load(found, state, state)
    message = f"{reason.format(path)}. Use the path of another checkpoint, or omit "
    assert str(error.value).startswith(message)
    assert not any(tensor.any() for tensor in flat(state).values())


def test_another_configuration_of_the_same_tensors_is_refused(tmp_path: Path) -> None:
    checkpoint = start(save(tmp_path / "a", [arrays(new_state())]))
    config = MANIFEST.model_config
    check_configuration(checkpoint, "study", config)
    check_configuration(Checkpoint(tmp_path / "a.pt"), "study", config)
    for model, other, problem in (
        ("study", replace(config, readout="sum"), "readout mean instead of sum"),
        ("study", replace(config, image_size=(32, 30)), "image_size (32, 32) instead of (32, 30)"),
        ("other", config, "model study instead of other"),
    ):
        with pytest.raises(InputError) as error:
            check_configuration(checkpoint, model, other)
        assert f" has {problem}. Use " in str(error.value)


def write_weights(path: Path, values: dict[str, np.ndarray]) -> Checkpoint:
    if path.suffix == ".safetensors":
        safetensors.numpy.save_file(values, path)
    else:
        torch.save({name: torch.tensor(value) for name, value in values.items()}, path)
    return start(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_a_weights_only_file_must_hold_the_model_and_no_more(tmp_path: Path, suffix: str) -> None:
    expected = new_state()
    model = flat(arrays(select(expected, is_of_model)))
    path = tmp_path / f"weights{suffix}"

    state = zeroed(new_state())
    own = {"head": state["head"]}  # what one stage loads
    load(write_weights(path, model), expected, own)
    for name, tensor in state["head"].items():
        same = torch.equal(tensor, expected["head"][name])
        assert same == (not name.startswith("optimizer.")), name

    for change, problem in (
        ({"head.bias": np.zeros(2)}, "tensor head.bias, which the model does not have"),
        (
            {"optimizer.step.bias": np.zeros(())},
            "tensor optimizer.step.bias, which the model does not have",
        ),
        ({"bias": np.zeros(3)}, "bias of shape [3] instead of [2]"),
        ({"bias": None}, "no tensor bias"),
        ({"first.weight": None}, "no tensor first.weight"),  # of another stage
        ({"norm.num_batches_tracked": None}, "no tensor norm.num_batches_tracked"),
    ):
        values = {name: value for name, value in (model | change).items() if value is not None}
        with pytest.raises(InputError) as error:
            load(write_weights(path, values), expected, own)
        assert f"checkpoint of another model: {path} has {problem}. Use " in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_weights_are_unwrapped_and_converted(tmp_path: Path, dtype: torch.dtype) -> None:
    expected = new_state()
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in flat(select(expected, is_of_model)).items()
    }
    parameters = {
        name: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }
    wrapped = {f"module._orig_mod.{name}": tensor for name, tensor in tensors.items()}
    other = {f"_orig_mod.module.{name}": tensor for name, tensor in parameters.items()}
    path = tmp_path / "weights.pt"
    for content in (
        tensors,
        parameters,
        {"state_dict": wrapped},
        {"model": other, "epoch": 3, "optimizer": {"state": {0: tensors}, "param_groups": []}},
    ):
        torch.save(content, path)
        check_weights(path, tensors)
    for names in (tensors, {name.removeprefix("module."): t for name, t in wrapped.items()}):
        safetensors.torch.save_file(names, tmp_path / "weights.safetensors")
        check_weights(tmp_path / "weights.safetensors", tensors)


def check_weights(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    state = zeroed(new_state())
    load(start(path), state, state)
    for name, tensor in flat(select(state, is_of_model)).items():
        assert torch.equal(tensor, tensors[name].to(tensor.dtype)), name


def test_unreadable_weights_are_reported_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = new_state()
    model = flat(arrays(select(state, is_of_model)))
    for suffix in (".safetensors", ".pt"):
        path = tmp_path / f"weights{suffix}"
        write_weights(path, model)
        content = path.read_bytes()
        for damaged in (content[:-1], content[:100], content[:7], b"", b"\xff" * 64):
            path.write_bytes(damaged)
            assert_unreadable(path, state)
        assert_unreadable(tmp_path / f"nowhere{suffix}", state, "No such file or directory")
        folder = tmp_path / f"folder{suffix}"
        folder.mkdir()
        assert_unreadable(folder, state, "Is a directory")
    some = {"bias": torch.zeros(2)}
    for no_weights, found in (
        ([1, 2], "a list instead of tensors by name"),
        (torch.zeros(2), "a Tensor instead of tensors by name"),
        ({"bias": 3}, "found bias"),
        ({}, "found nothing"),
        ({"epoch": 3, "optimizer": {"state": {}}}, "found epoch, optimizer"),
        ({"model": some, "model_ema": some}, "several dictionaries of tensors: model, model_ema"),
        ({"bias": torch.zeros(2).to_sparse()}, "bias of type torch.float32, layout"),
    ):
        torch.save(no_weights, path)
        assert_unreadable(path, state, found)

    torch.save({"bias": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for at in range(0, len(content), 3):  # the unpickler raises errors of many classes
        path.write_bytes(content[:at] + b"\x80" + content[at + 1 :])
        with pytest.raises(InputError):
            load(Checkpoint(path), state, state)

    def denied(path: Path, size_bytes: int) -> bytes:  # noqa: ARG001
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(shards, "_read_content", denied)
    write_weights(tmp_path / "weights.safetensors", model)
    assert_unreadable(tmp_path / "weights.safetensors", state, "Permission denied")


def assert_unreadable(path: Path, state: State, reason: str = "") -> None:
    with pytest.raises(InputError) as error:
        load(Checkpoint(path), state, state)
    assert str(error.value).startswith(f"cannot read the weights: {path} ({reason}")
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(" saved by torch.")


def test_the_moments_of_a_resized_position_table_start_at_zero() -> None:
    """Interpolated second moments could be negative."""
    table, shape = torch.rand(1, 4, 6, 5), torch.Size((1, 4, 3, 7))
    for moment in ("exp_avg", "exp_avg_sq"):
        found = _resized(f"optimizer.{moment}.pos_embed", table, shape)
        assert found is not None
        assert found.shape == shape
        assert not found.any()
        assert _resized(f"optimizer.{moment}.stem.weight", table, shape) is None
    weights = _resized("pos_embed", table, shape)
    assert weights is not None
    assert weights.any()


def test_averages_are_loaded_as_such_only_by_a_training_that_keeps_them(tmp_path: Path) -> None:
    expected = new_state(averages=True)
    source = start(save(tmp_path / "a", [arrays(expected)]))
    for averages in (True, False):
        state = zeroed(new_state(averages=averages))
        load(source, state, state)
        for name, tensor in flat(state).items():
            assert torch.equal(tensor, flat(expected)[name]), name


@pytest.mark.parametrize("use_averages", [True, False])
def test_other_commands_and_new_trainings_start_from_the_averages_unless_told_otherwise(
    tmp_path: Path, use_averages: bool
) -> None:
    saved = flat(new_state(averages=True))
    source = start(save(tmp_path / "a", [arrays(new_state(averages=True))]))
    chosen = replace(source, use_averages=use_averages)
    model = zeroed(new_state(optimizer=False))
    loaded = load(chosen, model, model)
    assert bool(loaded.notes) == use_averages
    for name, tensor in flat(model).items():
        average = f"ema.{name}" if use_averages and f"ema.{name}" in saved else name
        assert torch.equal(tensor, saved[average]), name

    training = zeroed(new_state(averages=True))
    load(replace(chosen, replace_head=True), training, training)
    assert torch.equal(
        training["first"]["first.weight"],
        saved["ema.first.weight" if use_averages else "first.weight"],
    )
    assert not training["first"]["ema.first.weight"].any()  # the training restarts them
    assert not training["head"]["weight"].any()


def test_an_average_of_no_tensor_of_the_model_is_refused(tmp_path: Path) -> None:
    saved = arrays(new_state(averages=True))
    saved["first"]["ema.first.other"] = np.zeros(1)
    model = new_state(optimizer=False)
    with pytest.raises(InputError, match=r"tensor ema.first.other, which the model does not have"):
        load(start(save(tmp_path / "a", [saved])), model, model)


def test_a_training_may_begin_to_average_when_it_is_continued(tmp_path: Path) -> None:
    expected = new_state()
    source = start(save(tmp_path / "a", [arrays(expected)]))
    state = zeroed(new_state(averages=True))
    assert not load(source, state, state).has_averages
    for name, tensor in flat(state).items():
        assert torch.equal(tensor, flat(expected)[name]) if not is_average(name) else True
        assert is_average(name) == (name not in flat(expected))
