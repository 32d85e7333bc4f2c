"""Parse, check the launch, run a command, end the world."""

import os
import sys
from collections.abc import Sequence

import mpi4py.run

from vigmpi import launch
from vigmpi.command_line import parse_config, parse_predict
from vigmpi.errors import InputError, RunError
from vigmpi.host import prepare_process
from vigmpi.stop_signal import StopSignal

COMMANDS = ("train", "evaluate", "predict")


def main(arguments: Sequence[str]) -> int:
    """Run on this rank; return its exit status.

    What all ranks know of is told by rank 0 alone, which leaves with that status: a launcher
    that ends the others at the first status above 0 could otherwise swallow the message.
    """
    speaks = launch.rank(os.environ) == 0
    try:
        return _run(arguments, speaks=speaks)
    except (InputError, RunError) as error:
        if speaks:
            print(f"vigmpi: error: {error}", file=sys.stderr, flush=True)
            return 2 if isinstance(error, InputError) else 1
    return 0


def _run(arguments: Sequence[str], *, speaks: bool) -> int:
    command, flags = "train", arguments
    if arguments and not arguments[0].startswith("-"):
        command, flags = arguments[0], arguments[1:]
    if command not in COMMANDS:
        raise InputError(f"unknown command {command}; type: python -m vigmpi train --help")
    if {"-h", "--help"} & set(flags) and not speaks:
        return 0
    if command == "predict":
        return _predict(flags)
    stop = StopSignal()
    config = parse_config(flags, command)

    prepare_process()
    # Not sooner: a wrong flag is told in 50 ms, torch and MPI take seconds.
    from vigmpi.comm.world import start_mpi  # noqa: PLC0415

    world = start_mpi()
    config.layout.check_world(world.size)
    if command == "train":
        from vigmpi.commands.train import train  # noqa: PLC0415

        return train(config, world, stop)
    from vigmpi.commands.evaluate import evaluate  # noqa: PLC0415

    return evaluate(config, world)


def _predict(flags: Sequence[str]) -> int:
    if (started := launch.tasks(os.environ)) > 1:
        raise InputError(f"predict takes one rank, {started} were started; type: it without mpirun")
    config = parse_predict(flags)
    prepare_process()
    from vigmpi.commands.predict import predict  # noqa: PLC0415

    predict(config)
    return 0


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except BaseException as error:
        # Whatever leaves `main` on one rank ends them all.
        mpi4py.run.set_abort_status(error)
        raise
    sys.exit(status)
