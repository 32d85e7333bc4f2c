from pathlib import Path

from tests.launching import ROOT, finish, start, vigmpi

PLANTED = """
import os
import vigmpi.pipeline.adamw

def step(self, closure=None):
    raise RuntimeError("planted")

if "1" in (os.environ.get("PMI_RANK"), os.environ.get("OMPI_COMM_WORLD_RANK")):
    vigmpi.pipeline.adamw.AdamW.step = step
"""


def test_an_exception_on_one_rank_ends_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(PLANTED)
    flags = ["--stages", "2", "--batch-size", "2", "--record", str(tmp_path / "run.h5")]
    environ = {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = finish(start(vigmpi(*flags, ranks=2), environ=environ), timeout=150)
    assert done.returncode != 0
    messages = [line for line in done.stderr.splitlines() if line.startswith("vigmpi: error:")]
    assert len(messages) == 1
    assert messages[0].startswith("vigmpi: error: rank 1 (stage 1, replica 0; pid ")
    assert messages[0].endswith(" failed in optimizer (mini-batch 1): RuntimeError: planted")
    assert "Traceback" in done.stderr.partition(messages[0])[2]  # after the message
