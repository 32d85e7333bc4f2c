import sys
from pathlib import Path

from tests.launching import ROOT, finish, mpiexec, start

PLANTED = """
import os, sys
import torch

def step(self, closure=None):
    raise RuntimeError("planted")

if os.environ["PMI_RANK"] == "1":
    torch.optim.Adam.step = step
"""


def test_an_exception_on_one_rank_ends_them_all(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    launch = [*mpiexec(2), "-genv", "PYTHONPATH", f"{tmp_path}:{ROOT}"]
    flags = ["--stages", "2", "--batch-size", "2", "--output", str(tmp_path / "run.h5")]
    done = finish(start([*launch, sys.executable, "-m", "vigmpi", *flags]), timeout=60)
    assert done.returncode != 0
    assert "RuntimeError: planted" in done.stderr
