import pytest
import torch

from vigmpi.models import MODELS, build
from vigmpi.models.model import Model
from vigmpi.pipeline.averages import Averages


def new_model(name: str) -> Model:
    size = (32, 32) if name == "vig_cifar" else MODELS[name].image_size
    return build(name, num_classes=10, image_size=size)


def change(model: Model, random: torch.Generator) -> None:
    """Change all weights and running statistics in place, as a training step does."""
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=random))


@pytest.mark.parametrize("name", ["study", "vig_cifar", "pvig_ti"])
def test_averages_follow_their_formula_and_are_the_weights_of_a_copy(name: str) -> None:
    random, model = torch.Generator().manual_seed(3), new_model(name)
    fixed = {name for name, p in model.named_parameters() if not p.requires_grad}
    averages = Averages(model, decay=0.6)
    expected = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for step in range(1, 30):
        change(model, random)
        averages.update(step)
        decay = min(0.6, step / (step + 9))
        for key, value in model.state_dict().items():
            if value.is_floating_point() and key not in fixed:
                expected[key] = decay * expected[key] + (1 - decay) * value.double()
    found = averages.model.state_dict()
    assert averages.state.keys() == {
        key for key, value in found.items() if value.is_floating_point() and key not in fixed
    }
    for key, value in averages.state.items():
        assert value.data_ptr() == found[key].data_ptr()
        torch.testing.assert_close(value.double(), expected[key], rtol=1e-6, atol=1e-7)
        assert not torch.equal(value, model.state_dict()[key]), key
    for key in fixed:  # a table of positions takes no memory twice
        assert found[key].data_ptr() == model.state_dict()[key].data_ptr()


def test_averages_can_be_reset_to_the_current_values() -> None:
    model = new_model("study")
    averages = Averages(model, decay=0.9)
    change(model, torch.Generator().manual_seed(1))
    averages.reset()
    for name, value in averages.state.items():
        assert torch.equal(value, model.state_dict()[name])
