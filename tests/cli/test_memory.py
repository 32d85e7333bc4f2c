import sys
from pathlib import Path

import h5py
import pytest

from tests.launching import finish, mpiexec, start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "side", "batch_size", "chunks", "flags", "stages"),
    [
        ("vig_cifar", 32, 128, 4, "", 1),
        ("vig_cifar", 320, 4, 2, "", 1),
        ("study", 512, 3, 3, "", 1),
        ("study", 512, 3, 1, "", 2),
        ("study", 1024, 1, 1, "--recompute --parts 2", 1),
        ("vig_ti", 224, 16, 4, "", 1),
        ("vig_ti", 224, 16, 4, "--conv edge", 1),
        ("vig_ti", 224, 8, 2, "--conv sage", 1),
        ("pvig_ti", 224, 8, 2, "--conv gin", 1),
        ("pvig_ti", 224, 8, 4, "", 2),
    ],
)
def test_the_memory_forecast_is_within_15_percent_of_what_a_run_adds(
    tmp_path: Path, model: str, side: int, batch_size: int, chunks: int, flags: str, stages: int
) -> None:
    record = tmp_path / "a.h5"
    ranks = stages * (2 if "--parts" in flags else 1)
    program = [*mpiexec(ranks), sys.executable, "-m", "tests.memory_probe"]
    options = [
        *("--dataset", "probe", "--data-dir", str(tmp_path), "--image-size", str(side)),
        *("--model", model, "--batch-size", str(batch_size), "--chunks", str(chunks)),
        *("--stages", str(stages), "--steps", "2", "--test-steps", "1", "--epochs", "1"),
        *("--keep", "0", "--threads", "1", "--progress", "off", "--record", str(record)),
        *flags.split(),
    ]
    done = finish(start([*program, *options]), 200)
    assert done.returncode == 0, done.stderr
    with h5py.File(record) as file:
        columns = [file["ranks"][n][:] for n in ("pid", "forecast_rss_bytes", "peak_rss_bytes")]
    for pid, forecast, peak in zip(*columns, strict=True):
        before = int((tmp_path / f"{pid}.rss").read_text())
        assert abs(forecast - peak) < 0.15 * (peak - before), (forecast - before, peak - before)
