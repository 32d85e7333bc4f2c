from pathlib import Path

import pytest

from analysis.bench import compare_bits
from tests.launching import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def changed(tmp_path: Path) -> Path:
    """Checkout with another constant learning rate.

    It takes all other modules from this checkout, whose kernels are compiled already.
    """
    package = tmp_path / "vigmpi/pipeline"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        original = ROOT / folder.relative_to(tmp_path)
        (folder / "__init__.py").write_text(f"__path__.append({str(original)!r})\n")
    schedules = (ROOT / "vigmpi/pipeline/learning_rate.py").read_text()
    (package / "learning_rate.py").write_text(
        schedules.replace("lambda done: 1.0)", "lambda done: 0.9)")
    )
    return tmp_path


def test_only_the_runs_that_a_change_affects_differ(
    changed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    names = ("2 stages", "learning rate", "evaluation")
    cases = {name: compare_bits.CASES[name] for name in names}
    monkeypatch.setattr(compare_bits, "CASES", cases)
    assert not compare_bits.compare(ROOT, changed)
    stages, cosine, evaluation = capfd.readouterr().out.splitlines()[1:]
    assert "DIFFERENT" in stages
    assert cosine.count("equal") == 3
    assert "DIFFERENT" in evaluation
