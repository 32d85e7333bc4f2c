import re
from argparse import ArgumentTypeError
from contextlib import suppress
from dataclasses import fields
from functools import partial
from pathlib import Path
from pkgutil import resolve_name

import pytest

from tests.configuration import parse_config
from vigmpi.cli import config as cli_config
from vigmpi.cli.config import RunConfig
from vigmpi.cli.parse import parse_predict
from vigmpi.comm.reductions import GRADIENT_SUMS
from vigmpi.datasets import DATASETS
from vigmpi.errors import InputError
from vigmpi.models import MODELS, ModelEntry
from vigmpi.schedule import SCHEDULES


def test_flags_take_precedence_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("stages = 2\nbatch-size = 7\nsplit = [5, 3]\noverwrite = true\nlr = 1e-3")
    config = parse_config(["--config", str(file), "--batch-size", "9"])
    assert config == RunConfig(stages=2, batch_size=9, split=(5, 3), overwrite=True, lr=1e-3)
    assert not parse_config(["--config", str(file), "--no-overwrite"]).overwrite


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--stagse", "2"], "unknown option: --stagse. Use --stages if"),
        (["--stage=2"], "unknown option: --stage. Use --stages if"),  # no abbreviations
        (["--stages", "two"], "--stages: expected an integer of at least 1, not 'two'. See"),
        (["--chunks", "0"], "--chunks: expected an integer of at least 1, not '0'. See"),
        (["--record="], "invalid value for --record: expected the path of a file, not ''"),
        (["--lr", "nan"], "--lr: expected a number greater than 0, not 'nan'. See"),
        (["--dataset", "mnist"], "invalid value for --dataset: 'mnist' (choose from 'cifar10'"),
        (["--split", "4,x", "--stages", "2"], "--split: expected an integer of at least 1"),
        (
            ["--weight-decay", "-1"],
            "--weight-decay: expected a number of at least 0, not '-1'. See",
        ),
        (["--ema", "1"], "--ema: expected a fraction of at least 0 and below 1, not '1'. See"),
        (
            ["--lr-schedule", "one-cycle", "--warm-up", "0"],
            "one-cycle with --warm-up 0. Use --warm-up 0.3, or",
        ),
        (["--chunks", "51"], "--chunks 51 for --batch-size 50. Use --chunks 50 or fewer"),
        (["--config", "nowhere.toml"], "cannot read the configuration file: nowhere.toml (No such"),
    ],
)
def test_an_invalid_flag_is_reported_in_one_line(arguments: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_config(arguments)
    assert_format(str(error.value), message)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_every_number_has_a_bound(command: str) -> None:
    huge = "9" * 25
    for option in fields(RunConfig):
        if command not in option.metadata.get("commands", ()):
            continue
        parse = option.metadata["argument"].get("type")
        with suppress(ArgumentTypeError, TypeError):
            value = parse(huge)
            assert not isinstance(value, int), option.name
            assert not isinstance(value, tuple) or not isinstance(value[0], int), option.name
    with pytest.raises(InputError, match=r"--epochs: expected an integer of at most 2147483647"):
        parse_config(["--epochs", huge])


def test_a_file_may_have_a_byte_order_mark_and_a_path_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.toml").write_text('data-dir = "~/päd"\n', encoding="utf-8-sig")
    config = parse_config(
        ["--config=~/run.toml", "--record=~/a.h5", "--checkpoint-dir=~nobody-x/b"]
    )
    assert (config.data_dir, config.record) == (tmp_path / "päd", tmp_path / "a.h5")
    assert config.checkpoint_dir == Path("~nobody-x/b")
    (tmp_path / "run.toml").write_text("epochs = 2", encoding="utf-16")
    with pytest.raises(InputError, match=r"cannot read the configuration file: .*utf-8"):
        parse_config(["--config", str(tmp_path / "run.toml")])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stagse = 2", "run.toml: stagse. Use stages if"),
        ("[run]\nstages = 2", "run.toml: run. "),
        ("stages = true", "run.toml: stages = true. Set stages to a number or a string."),
        ("overwrite = 1", "run.toml: overwrite = 1. Set overwrite to true or false."),
        ("stages = 1.5", "--stages: expected an integer of at least 1, not '1.5'. See"),
        ("stages = ", "cannot read the configuration file: "),
    ],
)
def test_an_invalid_file_is_reported_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        parse_config(["--config", str(file)])
    assert_format(str(error.value), message)


def assert_format(error: str, message: str) -> None:
    assert message in error
    assert "\n" not in error
    assert re.fullmatch(r".+: .+\. .+\.", error)


@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_help_describes_every_option(capfd: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as error:
        parse_config(["--help"], command)
    assert error.value.code == 0
    text = capfd.readouterr().out
    for option in fields(RunConfig):
        flag = f"--{option.name.replace('_', '-')}"
        is_described = re.search(rf"^ *{flag}[ ,]", text, re.MULTILINE) is not None
        assert is_described == (command in option.metadata.get("commands", ())), flag


def test_every_named_model_data_set_and_gradient_sum_exists() -> None:
    for target in (*(entry.layers for entry in MODELS.values()), *DATASETS.values()):
        assert callable(resolve_name(target))
    assert tuple(GRADIENT_SUMS) == cli_config.GRADIENT_SUMS


def test_a_model_data_set_or_schedule_that_is_registered_becomes_an_option(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for option, table in (("model", MODELS), ("dataset", DATASETS), ("schedule", SCHEDULES)):
        with pytest.raises(InputError, match=f"invalid value for --{option}: 'new'"):
            parse_config([f"--{option}", "new"])
        target = "a.module:function"
        monkeypatch.setitem(table, "new", ModelEntry(target, "") if table is MODELS else target)
        assert getattr(parse_config([f"--{option}", "new"]), option) == "new"


def test_split_and_split_after_exclude_each_other() -> None:
    with pytest.raises(InputError, match=r"incompatible options: --split and --split-after\."):
        parse_config(["--stages", "2", "--split", "4,4", "--split-after", "block 3"])


def test_a_file_of_the_studys_weights_is_evaluated_with_the_studys_readout(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"")
    source = [f"--checkpoint={tmp_path / 'weights.pt'}"]
    for command, more, readout in (
        ("evaluate", [], "sum"),
        ("evaluate", ["--readout", "mean"], "mean"),
        ("evaluate", ["--model", "vig_ti"], "mean"),
        ("infer", ["--images", "x.npy"], "sum"),
    ):
        assert parse_config([*source, *more], command=command).readout == readout


@pytest.mark.parametrize("arguments", [["evaluate"], ["predict", "cat.png"]])
def test_latest_without_any_checkpoint_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command, *images = arguments
    parse = partial(parse_config, command=command) if command == "evaluate" else parse_predict
    with pytest.raises(InputError, match="no checkpoint found: --checkpoint latest"):
        parse([*images, "--checkpoint", "latest"])
