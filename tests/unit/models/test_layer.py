import pytest
import torch
from torch import Tensor, nn

from vigmpi.models.layer import Boundary, Layer, MicroBatch
from vigmpi.models.model import Model

SHAPES = [(2, 3, 4, 5), (1, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (1, 1, 1, 1), (0, 3, 4, 5)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("channels_last", [False, True])
def test_features_get_the_strides_of_a_new_tensor(
    shape: tuple[int, ...], channels_last: bool
) -> None:
    boundary = Boundary(shape[1:], channels_last=channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    strides = torch.empty(shape, memory_format=memory_format).stride()
    values = torch.rand(shape)
    misaligned = torch.zeros(values.numel() + 1)[1:].view(shape).copy_(values)
    transposed = values.transpose(1, 3).contiguous().transpose(1, 3)
    pairs = zip(shape, strides, strict=True)
    odd = torch.empty_strided(shape, [7 if size == 1 else stride for size, stride in pairs])
    odd.copy_(values)
    for features in (values, misaligned, transposed, odd):
        conforming = boundary.conform(features)
        assert torch.equal(conforming, features)
        assert conforming.stride() == strides
        assert conforming.data_ptr() % 64 == 0
        assert boundary.conform(conforming) is conforming


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_message_holds_the_features_in_memory_order(
    dtype: torch.dtype, channels_last: bool
) -> None:
    boundary = Boundary((3, 4, 5), dtype, channels_last=channels_last)
    features = boundary.conform(torch.rand(2, 3, 4, 5).to(dtype))
    message = boundary.to_message(features)
    assert message.flags.c_contiguous
    assert message.dtype == boundary.numpy_dtype
    assert message.shape == (2, *boundary.memory_shape)
    assert message.nbytes == 2 * boundary.image_bytes
    received = boundary.from_message(message.copy())
    assert torch.equal(received, features)
    assert received.stride() == features.stride()
    assert boundary.image_bytes == dtype.itemsize * 3 * 4 * 5


class Scaled(nn.Module):
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("offset", torch.zeros(1))

    def forward(self, features: Tensor, micro_batch: MicroBatch) -> Tensor:  # noqa: ARG002
        return self.scale * features + self.offset


ROW = Boundary((4,))


def test_tensors_have_the_names_of_the_complete_model_in_any_part_of_it() -> None:
    layers = [Layer("a", Scaled, ROW, ROW, "first."), Layer("b", Scaled, ROW, ROW)]
    model, part = Model(layers), Model(layers[1:])
    assert list(model.state_dict()) == ["first.scale", "first.offset", "scale", "offset"]
    assert [name for name, _ in part.named_parameters()] == ["scale"]
    state = {name: torch.full((1,), float(i)) for i, name in enumerate(model.state_dict())}
    model.load_state_dict(state)
    assert model.layer_modules[0].scale == 0
    assert model.layer_modules[1].offset == 3
    with pytest.raises(RuntimeError, match="surplus"):
        part.load_state_dict({"scale": torch.ones(1), "offset": torch.ones(1), "surplus": state})


def test_boundaries_that_do_not_fit_are_refused() -> None:
    wide = Boundary((8,))
    with pytest.raises(ValueError, match="boundary of a and b"):
        Model([Layer("a", Scaled, ROW, ROW), Layer("b", Scaled, wide, wide)])
    with pytest.raises(ValueError, match=r"features of shape \(4,\) instead of \(8,\)"):
        Model([Layer("a", Scaled, ROW, wide)])(torch.rand(3, 4))


def test_names_that_repeat_are_refused() -> None:
    with pytest.raises(ValueError, match="several layers have the same name"):
        Model([Layer("a", Scaled, ROW, ROW, "a."), Layer("a", Scaled, ROW, ROW, "b.")])
    with pytest.raises(ValueError, match="a tensor of the same name"):
        Model([Layer("a", Scaled, ROW, ROW), Layer("b", Scaled, ROW, ROW)])
