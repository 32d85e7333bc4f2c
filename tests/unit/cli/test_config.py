import re
from dataclasses import fields
from pathlib import Path

import pytest

from vigmpi.cli.config import DATASETS as NAMES
from vigmpi.cli.config import RunConfig
from vigmpi.cli.parse import parse_config
from vigmpi.datasets import DATASETS
from vigmpi.errors import InputError


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("stages = 2\nbatch-size = 7\nsplit = [5, 3]\noverwrite = true\nlr = 1e-3")
    config = parse_config(["--config", str(file), "--batch-size", "9"])
    assert config == RunConfig(stages=2, batch_size=9, split=(5, 3), overwrite=True, lr=1e-3)
    assert not parse_config(["--config", str(file), "--no-overwrite"]).overwrite


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stagse", "2"], "unknown setting --stagse; type: --stages"),
        (["--stage=2"], "unknown setting --stage; type: --stages"),  # no abbreviations
        (["--stages", "two"], "--stages: 'two' is not a whole number, 1 or more"),
        (["--chunks", "0"], "--chunks: '0' is not a whole number, 1 or more"),
        (["--lr", "nan"], "--lr: 'nan' is not a number above 0"),
        (["--dataset", "mnist"], "--dataset: invalid choice: 'mnist'"),
        (["--split", "4,x", "--stages", "2"], "--split: 'x' is not a whole number"),
        (["--chunks", "101"], "--chunks 101 is more than the 100 images"),
        (["--config", "nowhere.toml"], "--config nowhere.toml can't be read"),
    ],
)
def test_a_wrong_flag_is_told_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_config(arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "type: " in str(error.value) or "nowhere" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stagse = 2", "unknown setting stagse; type: stages"),
        ("[run]\nstages = 2", "unknown setting run"),
        ("stages = true", "stages = true is of the wrong type"),
        ("overwrite = 1", "overwrite = 1 is of the wrong type"),
        ("stages = 1.5", "--stages: '1.5' is not a whole number"),
        ("stages = ", "can't be read"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        parse_config(["--config", str(file)])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_names_every_setting(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as leaving:
        parse_config(["--help"], command)
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    for setting in fields(RunConfig):
        flag = f"--{setting.name.replace('_', '-')}"
        told = re.search(rf"^ *{flag}[ ,]", text, re.MULTILINE) is not None
        assert told == (command in setting.metadata.get("commands", ())), flag


def test_the_flag_offers_the_data_sets_that_there_are() -> None:
    assert tuple(DATASETS) == NAMES
