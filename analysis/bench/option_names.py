"""Option names of a checkout that predates the renaming, for the tools that compare checkouts.

This module is temporary: it goes once no checkout with the old names is compared any more.
"""

from collections.abc import Sequence
from pathlib import Path

_OLD_NAMES = {
    "--backend": "--model-path",
    "--random-crop": "--crop",
    "--record": "--output",
    "fast": "collapsed",
}


def options_for(checkout: Path, options: Sequence[str]) -> list[str]:
    """Return command-line options as a checkout understands them."""
    if (checkout / "vigmpi/cli").is_dir():
        return list(options)
    return [_OLD_NAMES.get(option, option) for option in options]
