import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.configuration import parse_config
from tests.mpi.small import CONFIG, Noise
from vigmpi.checkpoint import search
from vigmpi.checkpoint.manifest import Manifest
from vigmpi.checkpoint.search import Checkpoint
from vigmpi.cli.config import RunConfig
from vigmpi.commands.provenance import effective_settings
from vigmpi.layout.split import split_after, split_layers
from vigmpi.models.config import ModelConfig
from vigmpi.models.study.layers import study_layers
from vigmpi.pipeline.pipeline import PipelineConfig
from vigmpi.position import Position


def settings_of(config: RunConfig) -> dict[str, Any]:
    layers = study_layers(CONFIG)
    pipeline_config = PipelineConfig(config.layout, layers, split_layers(layers, 1, None), 4)
    return effective_settings(config, Noise(Path(), 0), pipeline_config)


def test_an_evaluation_records_no_settings_of_a_training() -> None:
    assert {"lr", "epochs", "flip", "threads"} <= settings_of(RunConfig(threads=1)).keys()
    evaluation = settings_of(RunConfig(threads=1, checkpoint="a"))
    assert {"checkpoint", "test_steps", "threads"} <= evaluation.keys()
    assert not {"lr", "epochs", "flip", "resume", "schedule"} & evaluation.keys()


MANIFEST = Manifest("run", 0.0, Position(), {}, "study", ModelConfig(), ["a"])


@pytest.mark.parametrize("names", [None, ("block 2", "block 3")])
def test_a_resumed_run_inherits_the_split_of_its_run(
    names: tuple[str, ...] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = None if names else (4, 2, 2)
    config = RunConfig(stages=3, split=split, split_after=names)
    layers = study_layers(CONFIG)
    stages = split_after(layers, 3, names) if names else split_layers(layers, 3, split)
    pipeline_config = PipelineConfig(config.layout, layers, stages, 4)
    settings = effective_settings(config, Noise(Path(), 0), pipeline_config)
    assert settings["split"] == ([3, 1, 4] if names else [4, 2, 2])
    stored = json.loads(json.dumps(settings)) | {"dataset": "digits"}
    checkpoint = Checkpoint(Path("a"), replace(MANIFEST, settings=stored))
    monkeypatch.setattr(search, "find", lambda *_: checkpoint)
    resumed = parse_config(["--resume", "a", "--epochs", "9"])
    assert resumed.split_after == names
    assert resumed.split == config.split
    other = parse_config(["--resume", "a", "--epochs", "9", "--split", "2,2,4"])
    assert (other.split, other.split_after) == ((2, 2, 4), None)
    fewer = parse_config(["--resume", "a", "--epochs", "9", "--stages", "2"])
    assert (fewer.split, fewer.split_after) == (None, None)
