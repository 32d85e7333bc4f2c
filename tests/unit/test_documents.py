"""What the documents say about the code is true."""

import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.configuration import parse_config
from tests.launching import ROOT

PACKAGE = ROOT / "vigmpi"
ROOMS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
NAMES = sorted(set(re.findall(rf"`((?:{'|'.join(ROOMS)}|errors)\.[\w.]+)`", TEXT)))
FOLDERS = ("vigmpi", "jobs", "data", "analysis", "tests")
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")),
]


@pytest.mark.parametrize("name", NAMES)
def test_every_name_in_contributing_exists(name: str) -> None:
    parts = name.split(".")
    value: Any = importlib.import_module(f"vigmpi.{parts[0]}")
    for length, part in enumerate(parts[1:], 2):
        if not hasattr(value, part):
            importlib.import_module("vigmpi." + ".".join(parts[:length]))
        value = getattr(value, part)


def test_contributing_names_enough_of_the_code() -> None:
    assert len(NAMES) > 25


@pytest.mark.parametrize("room", ROOMS)
def test_contributing_shows_every_room(room: str) -> None:
    assert f"vigmpi/{room}/" in TEXT


def test_contributing_shows_the_imports_that_the_linter_enforces() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    [contract] = [
        each for each in settings["tool"]["importlinter"]["contracts"] if each["type"] == "layers"
    ]
    assert "\n".join(f"    {layer}" for layer in contract["layers"]) in TEXT
    modules = {path.stem for path in PACKAGE.glob("[!_]*.py")}
    assert modules <= set(re.findall(r"\w+", " ".join(contract["layers"])))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_settings_in_jobs_are_valid() -> None:
    study, cifar10 = (
        parse_config(["--config", str(ROOT / f"jobs/{name}.toml")], "train")
        for name in ("study", "cifar10")
    )
    assert (study.readout, study.lr_schedule) == ("sum", "constant")
    assert (cifar10.model, cifar10.lr_schedule) == ("vig_cifar", "one-cycle")
