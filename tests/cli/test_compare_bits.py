import shutil
from pathlib import Path

import pytest

from analysis.bench import compare_bits
from tests.launching import ROOT

pytestmark = pytest.mark.slow


def test_only_the_runs_that_a_change_affects_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ("2 stages", "learning rate", "evaluation")
    cases = {name: compare_bits.CASES[name] for name in names}
    monkeypatch.setattr(compare_bits, "CASES", cases)
    shutil.copytree(ROOT / "vigmpi", tmp_path / "vigmpi")
    schedules = tmp_path / "vigmpi/pipeline/learning_rate.py"
    schedules.write_text(schedules.read_text().replace("math.pi * done", "3.1 * done"))
    assert not compare_bits.compare(ROOT, tmp_path)
    differing = [line for line in capfd.readouterr().out.splitlines() if "DIFFERENT" in line]
    assert [line.partition("  ")[0] for line in differing] == ["learning rate"]
    assert differing[0].count("DIFFERENT") == 3
