"""What the documents say of the code is true."""

import importlib
import re
from typing import Any

import pytest

from tests.launching import ROOT
from vigmpi.cli.parse import parse_config

ROOMS = "kernels|commands|runtime|record|comm|model|datasets|schedule|config|errors|layout|split"
NAMES = sorted(set(re.findall(rf"`((?:{ROOMS})\.[\w.]+)`", (ROOT / "CONTRIBUTING.md").read_text())))


@pytest.mark.parametrize("name", NAMES)
def test_the_map_names_what_there_is(name: str) -> None:
    parts = name.split(".")
    thing: Any = importlib.import_module(f"vigmpi.{parts[0]}")
    for length, part in enumerate(parts[1:], 2):
        if not hasattr(thing, part):
            importlib.import_module("vigmpi." + ".".join(parts[:length]))
        thing = getattr(thing, part)


def test_the_map_is_long_enough_to_be_one() -> None:
    assert len(NAMES) > 15


def test_the_map_shows_every_room() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in (ROOT / "vigmpi").iterdir():
        if path.is_dir() and (path / "__init__.py").exists():
            assert f"vigmpi/{path.name}/" in text
        elif path.suffix == ".py" and not path.stem.startswith("_"):
            assert re.search(rf"vigmpi/{{[^}}]*\b{path.stem}\b", text), path


def test_the_settings_beside_the_jobs_are_settings() -> None:
    config = parse_config(["--config", str(ROOT / "jobs/learning.toml")], "train")
    assert (config.readout, config.lr_schedule) == ("mean", "cosine")
