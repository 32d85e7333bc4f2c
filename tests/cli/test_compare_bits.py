import shutil
from pathlib import Path

import pytest

from analysis.bench import compare_bits
from tests.launching import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def two_short_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("2 stages", "evaluation")
    cases = {name: compare_bits.CASES[name] for name in names}
    monkeypatch.setattr(compare_bits, "CASES", cases)


def test_a_checkout_equals_itself(capfd: pytest.CaptureFixture[str]) -> None:
    assert compare_bits.compare(ROOT, ROOT)
    assert "DIFFERENT" not in capfd.readouterr().out


def test_a_change_of_one_constant_is_found(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(ROOT / "vigmpi", tmp_path / "vigmpi")
    adam = tmp_path / "vigmpi/pipeline/adamw.py"
    adam.write_text(adam.read_text().replace("beta2=0.999", "beta2=0.998"))
    assert not compare_bits.compare(ROOT, tmp_path)
    stages, evaluation = capfd.readouterr().out.splitlines()[1:]
    assert "DIFFERENT" in stages
    assert "DIFFERENT" in evaluation
