"""Settings from flags, a TOML file and the checkpoint that a run goes on from."""

import argparse
import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, NoReturn

from vigmpi import manifest
from vigmpi.config import PredictConfig, RunConfig
from vigmpi.errors import InputError

# Of one start of a run, and not of its checkpoints: never taken over.
_OF_A_START = {
    *("resume", "checkpoint", "checkpoint_dir", "output", "overwrite"),
    *("download", "threads", "trace", "progress", "silence_s", "standstill_s"),
    "on_failure",
}
# Nor for an evaluation: what says how long, and on what layout, its run trained.
_OF_THE_TRAINING = {"stages", "replicas", "chunks", "split", "test_steps"}
_USAGE = {
    "train": "mpirun -n (S x R) python -m vigmpi [train] [--stages S] [--replicas R] [...]",
    "evaluate": "mpirun -n (S x R) python -m vigmpi evaluate --checkpoint PATH [...]",
}
_ABOUT = {
    "train": "Train the Vision GNN over MPI ranks: R replicas of a pipeline of S stages.",
    "evaluate": "Loss and accuracy of a trained model on test images, over MPI ranks.",
}


def parse_config(arguments: Sequence[str], command: str = "train") -> RunConfig:
    """Flags over the TOML file that `--config` names, over the checkpoint's, over the defaults.

    Raises:
        InputError: an unknown or impossible setting, or a checkpoint that cannot be read.
        SystemExit: after `--help`.
    """
    known = {f.name: f for f in fields(RunConfig) if command in f.metadata.get("commands", ())}
    parser = _parser(command, known)
    given = _parse(parser, arguments, known)
    if path := given.pop("config", None):
        given = _parse(parser, _as_flags(_read_toml(path), str(path), known), known) | given
    start = _find(command, given)
    inherited: dict[str, Any] = {}
    if start and start.manifest:
        taken = _taken_over(start.manifest.settings, command, given)
        settings = {name: value for name, value in taken.items() if name in known}
        inherited = _parse(parser, _as_flags(settings, str(start.path), known), known)
    config = RunConfig(**{**inherited, **given}, start=start)
    config.check()
    return config


def parse_predict(arguments: Sequence[str]) -> PredictConfig:
    """Like `parse_config`, for a prediction."""
    parser = _Parser(
        prog="python -m vigmpi predict",
        description="The classes of some images, with their probabilities; on one rank.",
        allow_abbrev=False,
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="image files")
    parser.add_argument(
        "--checkpoint",
        required=True,
        metavar="PATH",
        help="a checkpoint, a folder of them, latest, or a file of weights of the study's model",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    given = parser.parse_args(arguments)
    start = manifest.find(given.checkpoint, None)
    if start is None:
        raise InputError("there is no checkpoint here; type: --checkpoint PATH")
    return PredictConfig(start, tuple(given.images), given.json)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; type: {self.prog} --help")


def _parser(command: str, known: Mapping[str, Field]) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m vigmpi" + (f" {command}" if command != "train" else ""),
        usage=_USAGE[command],
        description=_ABOUT[command],
        epilog="Example: mpirun -n 4 python -m vigmpi --stages 2 --replicas 2 --chunks 5",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,  # what is not given stays out
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML file with these settings; flags win"
    )
    for setting in known.values():
        argument: dict[str, Any] = dict(setting.metadata["argument"])
        if isinstance(setting.default, bool):
            del argument["type"]
            argument["action"] = argparse.BooleanOptionalAction
        elif setting.default is not None:
            argument["help"] += f" (default: {setting.default})"
        parser.add_argument(f"--{_flag(setting.name)}", **argument)
    return parser


def _parse(
    parser: argparse.ArgumentParser, flags: Sequence[str], known: Mapping[str, Field]
) -> dict[str, Any]:
    """Only what is given."""
    parsed, unknown = parser.parse_known_args(flags)
    if unknown:
        raise InputError(_unknown(unknown[0], [f"--{_flag(name)}" for name in known]))
    return vars(parsed)


def _find(command: str, given: Mapping[str, Any]) -> manifest.Checkpoint | None:
    name = given.get("resume" if command == "train" else "checkpoint")
    if name is None and command == "evaluate":
        raise InputError("there is nothing to evaluate; type: evaluate --checkpoint PATH")
    return manifest.find(name, _folder(command, given)) if name else None


def _folder(command: str, given: Mapping[str, Any]) -> Path | None:
    """Where a run like this one would keep its checkpoints, if that can be told."""
    if "checkpoint_dir" in given:
        return given["checkpoint_dir"]
    if command == "train" and "output" in given:
        return given["output"].with_suffix(manifest.SUFFIX)
    if os.environ.get("SLURM_RESTART_COUNT", "0") != "0":
        return Path(f"vigmpi-{os.environ['SLURM_JOB_ID']}{manifest.SUFFIX}")
    return None


def _taken_over(
    settings: Mapping[str, Any], command: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Those settings of a checkpoint's run that hold for one that starts from it."""
    left_out = set(_OF_A_START)
    if command == "evaluate":
        left_out |= _OF_THE_TRAINING
    elif {"stages", "blocks"} & given.keys():
        left_out.add("split")
    return {name: value for name, value in settings.items() if name not in left_out}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"--config {path} can't be read: {error}") from error


def _as_flags(settings: Mapping[str, Any], source: str, known: Mapping[str, Field]) -> list[str]:
    """Settings of a file, as the flags that mean the same."""
    by_flag = {_flag(name): setting for name, setting in known.items()}
    flags = []
    for key, value in settings.items():
        name = _flag(key)
        if name not in by_flag:
            raise InputError(f"in {source}: {_unknown(key, list(by_flag))}")
        if isinstance(value, bool) != isinstance(by_flag[name].default, bool):
            raise InputError(f"in {source}: {key} = {str(value).lower()} is of the wrong type")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            flags.append(f"--{name}={','.join(map(str, value))}")
        else:
            flags.append(f"--{name}={value}")
    return flags


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _unknown(given: str, known: Sequence[str]) -> str:
    given = given.partition("=")[0]
    close = difflib.get_close_matches(given, known, n=1)
    return f"unknown setting {given}; type: {close[0] if close else 'python -m vigmpi --help'}"
