import subprocess
import sys

import pytest
import torch
from torch import nn

from vigmpi.models import MODELS, build
from vigmpi.pipeline.adamw import AdamW, decays


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(7, 5)
        self.norm = nn.BatchNorm1d(5)
        self.pos_embed = nn.Parameter(torch.randn(1, 5, 3))


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_steps_are_bitwise_identical_to_those_of_torchs_class(weight_decay: float) -> None:
    torch.manual_seed(0)
    ours, theirs = Toy(), Toy()
    theirs.load_state_dict(ours.state_dict())
    adam = AdamW(dict(ours.named_parameters()), 1e-2, weight_decay)
    others = [p for name, p in theirs.named_parameters() if name != "linear.weight"]
    reference = torch.optim.AdamW(
        [
            {"params": [theirs.linear.weight], "weight_decay": weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=1e-2,
    )
    for step in range(20):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine) * 10.0 ** (step % 5 - 3)
            other.grad = mine.grad.clone()
        if step == 10:
            adam.lr, adam.beta1 = 3e-3, 0.85
            for group in reference.param_groups:
                group.update(lr=3e-3, betas=(0.85, 0.999))
        adam.step()
        reference.step()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine, other)
    assert adam.num_steps == 20
    for name, weight in theirs.named_parameters():
        for quantity in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(adam.state[f"{quantity}.{name}"], reference.state[weight][quantity])


@pytest.mark.parametrize("model", ["study", "vig_cifar", "vig_ti", "pvig_ti"])
def test_weights_of_products_decay_and_nothing_else(model: str) -> None:
    modules = dict(
        build(model, num_classes=10, image_size=MODELS[model].image_size).named_modules()
    )
    del modules[""]
    for path, module in modules.items():
        for name, weight in module.named_parameters(recurse=False):
            is_product = isinstance(module, nn.Linear | nn.Conv2d) and name == "weight"
            assert decays(f"{path}.{name}", weight) == is_product, f"{path}.{name}"


def test_torchs_compiler_is_not_imported() -> None:
    program = (
        "import sys, torch; from torch import nn; from vigmpi.pipeline.adamw import AdamW;"
        "m = nn.Linear(2, 2); a = AdamW(dict(m.named_parameters()), 0.1);"
        "m(torch.ones(1, 2)).sum().backward(); a.step();"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
