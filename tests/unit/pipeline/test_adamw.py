import subprocess
import sys

import torch
from torch import nn

from vigmpi.pipeline.adam import Adam


def test_steps_are_bitwise_identical_to_those_of_torchs_class() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(7, 5), nn.Linear(7, 5)
    theirs.load_state_dict(ours.state_dict())
    adam = Adam(dict(ours.named_parameters()), lr=1e-2)
    reference = torch.optim.Adam(theirs.parameters(), lr=1e-2)
    for step in range(20):
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            mine.grad = torch.randn_like(mine) * 10.0 ** (step % 5 - 3)
            other.grad = mine.grad.clone()
        if step == 10:
            adam.lr = reference.param_groups[0]["lr"] = 3e-3
        adam.step()
        reference.step()
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(mine, other)
    for name, weight in theirs.named_parameters():
        for quantity in ("exp_avg", "exp_avg_sq", "step"):
            assert torch.equal(adam.state[f"{quantity}.{name}"], reference.state[weight][quantity])


def test_torchs_compiler_is_not_imported() -> None:
    program = (
        "import sys, torch; from torch import nn; from vigmpi.pipeline.adam import Adam;"
        "m = nn.Linear(2, 2); a = Adam(dict(m.named_parameters()), 0.1);"
        "m(torch.ones(1, 2)).sum().backward(); a.step();"
        "assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)
