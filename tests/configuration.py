from collections.abc import Sequence

from vigmpi.cli.config import RunConfig
from vigmpi.cli.parse import parse_flags, read_config


def parse_config(arguments: Sequence[str], command: str = "train") -> RunConfig:
    """Return the configuration from flags and the files that they name, as rank 0 reads it."""
    return read_config(parse_flags(arguments, command))
