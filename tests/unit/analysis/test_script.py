import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import pytest

from analysis import corrections, figures, tables, trace
from analysis.script import exit_on_input_error
from vigmpi.errors import InputError


def test_an_input_error_is_one_line_on_standard_error_and_status_2(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as raised, exit_on_input_error("python -m analysis.tables"):
        raise InputError("no trace:\nrun.h5.")
    assert raised.value.code == 2
    assert capfd.readouterr() == ("", "python -m analysis.tables: error: no trace: run.h5.\n")


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (tables.main, ["--output", "tables.md"]),
        (figures.main, ["--output", "figures"]),
        (trace.main, ["trace.json"]),
        (corrections.main, []),
    ],
)
def test_scripts_refuse_a_record_in_another_format(
    script: Callable[[], None],
    options: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with h5py.File("old.h5", "w") as file:
        file.attrs["format"] = "vigmpi record 0"
    monkeypatch.setattr(sys, "argv", ["script", "old.h5", *options])
    with pytest.raises(SystemExit) as raised:
        script()
    assert raised.value.code == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert "old.h5 has format 'vigmpi record 0'" in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["old.h5"]
