"""Parse, check the launch, run a command, end the world."""

import os
import sys
from collections.abc import Sequence
from traceback import format_exception

from vigmpi import launch
from vigmpi.comm.world import end_world, start_mpi
from vigmpi.command_line import parse_config, parse_predict
from vigmpi.errors import InputError, RankError, RunError
from vigmpi.host import importing, prepare_process, process_name
from vigmpi.runtime.activity import Activity, name_rank
from vigmpi.stop_signal import StopSignal, ignore_late

COMMANDS = ("train", "evaluate", "predict")


def main(arguments: Sequence[str], activity: Activity) -> int:
    """Run on this rank; return its exit status.

    What all ranks know of is told by rank 0 alone, which leaves with that status: a launcher
    that ends the others at the first status above 0 could otherwise swallow the message.
    """
    speaks = activity.rank == 0
    try:
        return _run(arguments, activity, speaks=speaks)
    except (InputError, RunError) as error:
        if speaks:
            print(f"vigmpi: error: {error}", file=sys.stderr, flush=True)
            return 2 if isinstance(error, InputError) else 1
    return 0


def _run(arguments: Sequence[str], activity: Activity, *, speaks: bool) -> int:
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
    activity.layout = config.layout

    prepare_process()
    world = start_mpi()
    config.layout.check_world(world.size)
    # Not sooner: a wrong flag is told in 50 ms, MPI and torch take seconds.
    from vigmpi.runtime.watchdog import watchdog  # noqa: PLC0415

    with watchdog(world, config.layout, activity, config.silence_s, config.standstill_s):
        with importing():
            from vigmpi.commands.evaluate import evaluate  # noqa: PLC0415
            from vigmpi.commands.train import train  # noqa: PLC0415
        if command == "train":
            return train(config, world, activity, stop)
        return evaluate(config, world, activity)


def why(error: BaseException, activity: Activity) -> str:
    """What to say of an error that ends the run: one line first, then where it comes from."""
    if isinstance(error, RankError):
        return f"{error}\n"
    rank = name_rank(activity.rank, activity.layout, process_name())
    line = f"{rank} failed in {activity.now}: {type(error).__name__}: {error}"
    return "".join([line.rstrip(": "), "\n", *format_exception(error)])


def _predict(flags: Sequence[str]) -> int:
    if (started := launch.tasks(os.environ)) > 1:
        raise InputError(f"predict takes one rank, {started} were started; type: it without mpirun")
    config = parse_predict(flags)
    prepare_process()
    with importing():
        from vigmpi.commands.predict import predict  # noqa: PLC0415
    predict(config)
    return 0


if __name__ == "__main__":
    doing = Activity(launch.rank(os.environ))
    try:
        status = main(sys.argv[1:], doing)
    except BaseException as error:
        if isinstance(error, SystemExit) and not error.code and "mpi4py.MPI" not in sys.modules:
            raise  # after --help
        end_world(why(error, doing))  # whatever leaves `main` on one rank ends them all
    ignore_late()
    sys.exit(status)
