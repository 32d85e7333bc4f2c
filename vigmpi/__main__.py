"""Parse, check the launch, run a command, end the world."""

import os
import sys
from collections.abc import Sequence

import mpi4py.run

from vigmpi import launch
from vigmpi.config import parse_config
from vigmpi.errors import InputError
from vigmpi.host import prepare_process

COMMANDS = ("train",)


def main(arguments: Sequence[str]) -> int:
    """Run on this rank; return its exit status.

    Bad input is found by all ranks alike. Rank 0 alone says so and leaves with 2: a launcher
    that ends the others at the first status above 0 could otherwise swallow the message.
    """
    speaks = launch.rank(os.environ) == 0
    try:
        _run(arguments, speaks=speaks)
    except InputError as error:
        if speaks:
            print(f"vigmpi: error: {error}", file=sys.stderr, flush=True)
            return 2
    return 0


def _run(arguments: Sequence[str], *, speaks: bool) -> None:
    command, flags = "train", arguments
    if arguments and not arguments[0].startswith("-"):
        command, flags = arguments[0], arguments[1:]
    if command not in COMMANDS:
        raise InputError(f"unknown command {command}; type: python -m vigmpi train --help")
    if {"-h", "--help"} & set(flags) and not speaks:
        return
    config = parse_config(flags)

    prepare_process()
    # Not sooner: a wrong flag is told in 50 ms, torch and MPI take seconds.
    from vigmpi.comm.world import start_mpi  # noqa: PLC0415

    world = start_mpi()
    config.layout.check_world(world.size)
    from vigmpi.commands.train import train  # noqa: PLC0415

    train(config, world)


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except BaseException as error:
        # Whatever leaves `main` on one rank ends them all.
        mpi4py.run.set_abort_status(error)
        raise
    sys.exit(status)
