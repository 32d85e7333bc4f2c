import sys
from pathlib import Path

import numpy as np
import pytest

from tests.launching import finish, start

STEP = """
import sys
import numpy as np
import torch
from vigmpi.models import build

model = build(blocks=1).train()
images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(int(sys.argv[2])))
model(images).square().sum().backward()
gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
np.savez(sys.argv[1], allow_pickle=False, **gradients)
"""


@pytest.mark.slow
def test_newly_compiled_and_cached_kernels_give_identical_bits(tmp_path: Path) -> None:
    seed = str(np.random.default_rng().integers(2**31))
    results = []
    for name in ("compiled", "cached"):
        path = tmp_path / f"{name}.npz"
        command = [sys.executable, "-c", STEP, str(path), seed]
        environ = {"NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        done = finish(start(command, environ=environ), timeout=200)
        assert done.returncode == 0, done.stderr
        results.append(dict(np.load(path)))
    assert any((tmp_path / "cache").rglob("*.nbc"))
    compiled, cached = results
    assert len(compiled) > 10
    for gradient, values in compiled.items():
        np.testing.assert_array_equal(cached[gradient], values, err_msg=gradient)
