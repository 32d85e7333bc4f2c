"""Configurations from flags, a TOML file and the checkpoint that a run starts from."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

from vigmpi.checkpoint import search
from vigmpi.checkpoint.manifest import Manifest
from vigmpi.cli import parsers
from vigmpi.cli.config import (
    CONFIGS,
    ExportConfig,
    LoadTestConfig,
    ModelsConfig,
    PredictConfig,
    PrepareConfig,
    RunConfig,
)
from vigmpi.cli.parsers import flag
from vigmpi.errors import InputError, error_reason
from vigmpi.launch import restarted
from vigmpi.models import MODELS
from vigmpi.models.config import OPTIONS, STUDY_READOUT
from vigmpi.start_limit import DEFAULT_S

# Options of a single invocation, which a resumed run never inherits from its checkpoint.
_NEVER_INHERITED = {
    *("resume", "checkpoint", "checkpoint_dir", "record", "overwrite", "download", "threads"),
    *("trace", "progress", "heartbeat_timeout", "stall_timeout", "on_failure", "replace_head"),
    *("no_ema", "memory_check"),
}
# Options of the training run that an evaluation does not inherit either.
_NOT_FOR_EVALUATION = {
    *("stages", "replicas", "parts", "chunks"),
    *("split", "split_after", "test_steps"),
}


@dataclass(frozen=True)
class RunFlags:
    """The flags of a training run or an evaluation.

    Attributes:
        command: train, evaluate or infer.
        given: values of the options that were given, by the fields of `RunConfig`, and `config`.
        start_timeout: seconds until all ranks must have met.
    """

    command: str
    given: Mapping[str, Any]
    start_timeout: float


def parse_flags(arguments: Sequence[str], command: str) -> RunFlags:
    """Return the flags of a command that runs on several ranks, and check them without any file.

    Raises:
        InputError: if an option is unknown or invalid.
        SystemExit: after `--help`.
    """
    known = _options(command)
    given = parsers.parse(parsers.run_parser(command, known), arguments, known)
    flags = RunFlags(command, given, given.pop("start_timeout", DEFAULT_S))
    if given.keys().isdisjoint(("config", "resume", "checkpoint")):
        read_config(flags)
    return flags


def read_config(flags: RunFlags) -> RunConfig:
    """Return the configuration of a training run or an evaluation.

    Flags take precedence over the TOML file that `--config` names, which takes precedence over
    the checkpoint's settings, which take precedence over the defaults.

    Raises:
        InputError: if an option is unknown or invalid, or if the checkpoint cannot be read.
    """
    command, known, given = flags.command, _options(flags.command), {**flags.given}
    parser = parsers.run_parser(command, known)
    if path := given.pop("config", None):
        settings = _settings_for(given, _read_toml(path))
        given = parsers.parse(parser, _as_flags(settings, str(path), known), known) | given
    start = _find_checkpoint(command, given)
    if start and given.get("replace_head"):
        start = replace(start, replace_head=True)
    if start and given.get("no_ema"):
        start = replace(start, use_averages=False)
    inherited: dict[str, Any] = {}
    if start and start.manifest:
        settings = _inheritable(start.manifest, command, given)
        settings = {name: value for name, value in settings.items() if name in known}
        inherited = parsers.parse(parser, _as_flags(settings, str(start.path), known), known)
    elif start and command != "train" and given.get("model", "study") == "study":
        inherited = {"readout": STUDY_READOUT}  # a file of weights does not tell
    config = CONFIGS[command](**{**inherited, **given}, start=start)
    config.check()
    if start and start.continued:
        _check_held_out(config, start.continued)
    return config


def parse_predict(arguments: Sequence[str]) -> PredictConfig:
    """Return the configuration of `vigmpi predict`.

    Raises:
        InputError: if an option is unknown, or if the checkpoint cannot be read.
        SystemExit: after `--help`.
    """
    given = parsers.predict_parser().parse_args(arguments)
    start = replace(_find_required(given.checkpoint), use_averages=not given.no_ema)
    return PredictConfig(start, tuple(given.images), given.format)


def parse_export(arguments: Sequence[str]) -> ExportConfig:
    """Return the configuration of `vigmpi export`.

    Raises:
        InputError: if an option is unknown, or if the checkpoint cannot be read.
        SystemExit: after `--help`.
    """
    given = vars(parsers.export_parser().parse_args(arguments))
    start = _find_required(given.pop("checkpoint"))
    return ExportConfig(replace(start, use_averages=not given.pop("no_ema")), **given)


def parse_load_test(arguments: Sequence[str]) -> LoadTestConfig:
    """Return the configuration of `vigmpi load-test`.

    Raises:
        InputError: if an option is unknown or invalid.
        SystemExit: after `--help`.
    """
    given = vars(parsers.load_test_parser().parse_args(arguments))
    config = LoadTestConfig(**given | {"command": tuple(given["command"])})
    if config.warm_up >= config.requests:
        raise InputError(
            f"nothing left to measure: --warm-up {config.warm_up} for --requests "
            f"{config.requests}. Use more requests."
        )
    return config


def parse_models(arguments: Sequence[str]) -> ModelsConfig:
    """Return the configuration of `vigmpi models`.

    Raises:
        InputError: if an option is unknown or invalid.
        SystemExit: after `--help`.
    """
    config = ModelsConfig(**vars(parsers.models_parser().parse_args(arguments)))
    if config.name is None and (config.image_size or config.conv != "mr"):
        raise InputError(
            "option without a model: vigmpi models. Use vigmpi models NAME with --image-size or "
            "--conv."
        )
    return config


def parse_prepare(arguments: Sequence[str]) -> PrepareConfig:
    """Return the configuration of `vigmpi prepare`.

    Raises:
        InputError: if an option is unknown or invalid.
        SystemExit: after `--help`.
    """
    return PrepareConfig(**vars(parsers.prepare_parser().parse_args(arguments)))


def _options(command: str) -> dict[str, Field]:
    options = fields(CONFIGS[command])
    return {f.name: f for f in options if command in f.metadata.get("commands", ())}


def _check_held_out(config: RunConfig, manifest: Manifest) -> None:
    """Raise InputError if a training would go on with other held-out images."""
    before = {name: manifest.settings.get(name, 0) for name in ("holdout", "seed")}
    now = {"holdout": config.holdout, "seed": config.seed}
    if config.resume and (config.holdout or before["holdout"]) and before != now:
        given = " ".join(f"--{name} {value}" for name, value in now.items())
        needed = " ".join(f"--{name} {value}" for name, value in before.items())
        raise InputError(
            f"other held-out images than before: {given} for a run with {needed}. Use {needed}."
        )


def _find_checkpoint(command: str, given: Mapping[str, Any]) -> search.Checkpoint | None:
    if command == "train":
        if "resume" not in given:
            return None
        # None is refused on all ranks together, unless the job was restarted before its first.
        return search.find(given["resume"], _checkpoint_folders(given))
    if "checkpoint" not in given:
        raise InputError(
            f"nothing to {command}: no checkpoint was given. Use vigmpi {command} --checkpoint "
            f"PATH."
        )
    return _find_required(given["checkpoint"])


def _find_required(name: str) -> search.Checkpoint:
    if found := search.find(name):
        return found
    raise InputError(f"no checkpoint found: --checkpoint {name}. Use --checkpoint PATH.")


def _checkpoint_folders(given: Mapping[str, Any]) -> Sequence[Path] | None:
    """Return the folders in which a training with these options keeps checkpoints, if known."""
    if "checkpoint_dir" in given:
        return [given["checkpoint_dir"]]
    if "record" in given:
        return [search.folder_of(given["record"])]
    return search.folders_of_job(os.environ["SLURM_JOB_ID"]) if restarted(os.environ) else None


def _inheritable(manifest: Manifest, command: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a checkpoint's run that apply to a run that starts from it.

    If a shard proves to be damaged, the run starts from an older checkpoint of the same run, with
    the settings of this one: its shards are read only when the ranks have built the model.
    """
    options = {name: getattr(manifest.model_config, name) for name in OPTIONS}
    settings = {**manifest.settings, "model": manifest.model, **options}
    # A default of another model's option may have been another one when the run was made.
    excluded = _NEVER_INHERITED | (set(OPTIONS) - set(MODELS[manifest.model].options))
    if given.get("dataset", settings.get("dataset")) != settings.get("dataset"):
        excluded.update(("image_size", "test_share"))
    if "data_dir" in given:
        excluded.add("test_share")
    if given.get("model", manifest.model) != manifest.model:
        excluded.update(OPTIONS, ("split", "split_after"))
    if command == "infer":
        excluded |= _NOT_FOR_EVALUATION | {"batch_size"}
    elif command == "evaluate":
        excluded |= _NOT_FOR_EVALUATION
    elif {"stages", "blocks", "split", "split_after"} & given.keys():
        excluded |= {"split", "split_after"}
    elif "split_after" in settings:
        excluded.add("split")  # it follows from the names
    return {name: value for name, value in settings.items() if name not in excluded}


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))  # some editors write a mark
    except (OSError, UnicodeDecodeError, RecursionError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"cannot read the configuration file: {path} ({error_reason(error)}). Use the path of "
            f"a valid TOML file."
        ) from error


def _settings_for(given: Mapping[str, Any], settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a file's settings without the options of its model if a flag names another one."""
    if given.get("model") in (None, settings.get("model")):
        return settings
    return {key: value for key, value in settings.items() if key.replace("-", "_") not in OPTIONS}


def _as_flags(settings: Mapping[str, Any], source: str, known: Mapping[str, Field]) -> list[str]:
    """Return a file's settings as the equivalent command-line flags."""
    by_flag = {flag(name): option for name, option in known.items()}
    flags = []
    for key, value in settings.items():
        name = flag(key)
        if name not in by_flag:
            raise InputError(parsers.unknown_option(key, list(by_flag), f" in {source}"))
        is_switch = isinstance(by_flag[name].default, bool)
        if isinstance(value, bool) != is_switch:
            expected = "true or false" if is_switch else "a number or a string"
            raise InputError(
                f"wrong type in {source}: {key} = {str(value).lower()}. Set {key} to {expected}."
            )
        if name == "image-size" and isinstance(value, list):
            flags.append(f"--{name}={'x'.join(map(str, value))}")
        elif isinstance(value, bool):
            if value or not name.startswith("no-"):
                flags.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            flags.append(f"--{name}={','.join(map(str, value))}")
        else:
            flags.append(f"--{name}={value}")
    return flags
