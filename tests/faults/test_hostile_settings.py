"""Arbitrary flags and TOML files are accepted or refused with one line."""

from dataclasses import fields
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.configuration import parse_config
from vigmpi.cli.config import RunConfig
from vigmpi.errors import InputError

FLAGS = [f"--{field.name.replace('_', '-')}" for field in fields(RunConfig)]
VALUES = st.one_of(
    st.text(max_size=12).filter(lambda text: "\0" not in text),
    st.integers().map(str),
    st.floats().map(str),
    st.lists(st.integers(-2, 99), max_size=5).map(lambda each: ",".join(map(str, each))),
)
ARGUMENTS = st.lists(
    st.one_of(
        st.sampled_from(FLAGS),
        VALUES,
        st.builds("{}={}".format, st.sampled_from([*FLAGS, "--config", "--split"]), VALUES),
    ).filter(lambda text: text not in {"-h", "--help"}),
    max_size=6,
)
KEYS = st.sampled_from([flag[2:] for flag in FLAGS])
LINES = st.builds(
    "{} = {}".format,
    KEYS,
    st.one_of(
        st.integers().map(str),
        st.floats().map(str),
        st.booleans().map(lambda value: str(value).lower()),
        st.sampled_from(['"x"', "[1, 2]", "[[]]", "{a = 1}", "1979-05-27", "'latest'", '""']),
    ),
)


def assert_accepted_or_refused(arguments: list[str]) -> None:
    message = ""
    try:
        parse_config(arguments)
    except InputError as error:
        message = str(error) or "empty"
    assert len(message.splitlines()) < 2
    assert message != "empty"


@given(ARGUMENTS)
@settings(max_examples=400, deadline=2000)
def test_any_flags_are_accepted_or_refused_with_one_line(arguments: list[str]) -> None:
    assert_accepted_or_refused(arguments)


@given(st.one_of(st.lists(LINES, max_size=4).map("\n".join).map(str.encode), st.binary()))
@settings(
    max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_file_is_accepted_or_refused_with_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "run.toml"
    file.write_bytes(content)
    assert_accepted_or_refused(["--config", str(file)])


def test_a_deeply_nested_file_is_refused_with_one_line(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("stages = " + 100_000 * "[")
    assert_accepted_or_refused(["--config", str(file)])
