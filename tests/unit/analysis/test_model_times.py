import re
import sys
from pathlib import Path

import h5py
import pytest

from analysis import model_times
from analysis.bench.model_step import Case, Step
from analysis.bench.models import Comparison, line, measure, write


def test_tables_and_the_figure_show_what_the_benchmark_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    two = Comparison({"reference": Case("vig_ti"), "fast": Case("vig_ti")})
    steps = {
        side: [Step(seconds, 0.1 * seconds, products_s, 2**30)] * 3
        for side, seconds, products_s in (
            ("reference", 2.0, 0.0),
            ("fast", 0.5, 0.0),
            ("profiled", 0.9, 0.3),
        )
    }
    with h5py.File(tmp_path / "models.h5", "w") as file:
        group = file.create_group("steps")
        found = {side: steps[side] for side in two.sides}
        write(group.create_group("vig_ti, 1 threads", track_order=True), two, found)
        assert "x4.00" in line("vig_ti", group["vig_ti, 1 threads"])
        both = Comparison({"fast": Case("vig_ti"), "profiled": Case("vig_ti", profiled=True)})
        profiled = file.create_group("products").create_group("vig_ti, 1 threads")
        write(profiled, both, {side: steps[side] for side in both.sides})
        memory = file.create_group("memory").create_group("vig_ti block 0", track_order=True)
        cases = {
            f"{side}, {images} images": Case("vig_ti", images=images, grapher=0)
            for side in ("reference", "fast")
            for images in (1, 5)
        }
        added = {
            side: [Step(1.0, 0.0, 0.0, mib * 2**20)]
            for side, mib in zip(cases, (60, 100, 120, 130), strict=True)
        }
        write(memory, Comparison(cases), added)
        growth = file.create_group("growth")
        for side in (64, 128):
            one = Comparison({"fast": Case("vig_ti", side=side, images=4)})
            write(growth.create_group(f"vig_ti, side {side}"), one, {"fast": steps["fast"]})
    arguments = [str(tmp_path / "models.h5"), "--output", str(tmp_path / "figures")]
    monkeypatch.setattr(sys, "argv", ["model_times", *arguments])
    model_times.main()
    out = capfd.readouterr().out
    assert "| vig_ti, 1 threads | 2.000 | 0.500 | 4.00 | 1.00 | 1.00 |" in out
    assert "| vig_ti, 1 threads | 0.500 | 0.300 |" in out
    assert "| vig_ti block 0 | 60 | 120 | 10.0 | 2.5 |" in out
    assert "| vig_ti, side 64 | 4 | 125.0 | 256 | 10.0% |" in out
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".svg", ".png"}


@pytest.mark.slow
def test_sides_take_turns_in_processes_of_their_own() -> None:
    sides = {
        "reference": Case("vig_cifar", backend="reference", images=2),
        "bf16": Case("vig_cifar", precision="bf16", images=2),
        "grapher": Case("vig_cifar", grapher=2, images=2),
        "width": Case("isotropic", width=96, k=5, side=32, images=2),
        "profiled": Case("vig_cifar", images=2, profiled=True),
    }
    found = measure(Comparison(sides), rounds=2)
    assert {side: len(values) for side, values in found.items()} == dict.fromkeys(sides, 2)
    for side, values in found.items():
        for step in values:
            assert 0 < step.seconds < 60
            assert (step.search_s > 0) == (side != "grapher")
            assert step.search_s < step.seconds
            assert (step.products_s > 0) == (side == "profiled")
            assert step.products_s < step.seconds
            assert re.fullmatch(r"\d+", str(step.added_bytes))
