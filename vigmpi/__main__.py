"""Parse, check the launch, run a command, end the world."""

import gc
import os
import sys
from collections.abc import Sequence
from traceback import format_exception
from typing import TYPE_CHECKING

from vigmpi import launch
from vigmpi.comm.world import end_world, leave_world, start_mpi
from vigmpi.command_line import parse_config, parse_predict
from vigmpi.errors import InputError, RankError, RunError
from vigmpi.host import importing, prepare_process, process_name
from vigmpi.runtime.activity import Activity, name_rank
from vigmpi.stop_signal import StopSignal, ignore_late

if TYPE_CHECKING:
    from vigmpi.commands.crew import Crew

COMMANDS = ("train", "evaluate", "predict")


def main(arguments: Sequence[str], activity: Activity) -> int:
    """Run on this rank; return its exit status.

    What all ranks know of is told by rank 0 alone, which leaves with that status: a launcher
    that ends the others at the first status above 0 could otherwise swallow the message.
    """
    try:
        return _run(arguments, activity)
    except (InputError, RunError) as error:
        if activity.rank == 0:
            print(f"vigmpi: error: {error}", file=sys.stderr, flush=True)
            return 2 if isinstance(error, InputError) else 1
    return 0


def _run(arguments: Sequence[str], activity: Activity) -> int:
    command, flags = "train", arguments
    if arguments and not arguments[0].startswith("-"):
        command, flags = arguments[0], arguments[1:]
    if command not in COMMANDS:
        raise InputError(f"unknown command {command}; type: python -m vigmpi train --help")
    if {"-h", "--help"} & set(flags) and activity.rank > 0:
        return 0
    if command == "predict":
        return _predict(flags)
    stop = StopSignal()
    config = parse_config(flags, command)
    activity.layout = config.layout

    prepare_process()
    if config.on_failure == "continue":
        launch.check_survival(os.environ)
    world = start_mpi()
    config.layout.check_world(world.size)
    # Not sooner: a wrong flag is told in 50 ms, MPI and torch take seconds.
    from vigmpi.commands.crew import Crew, RanksLostError  # noqa: PLC0415

    crew: Crew | None = Crew.of_all(world, config)
    while crew:
        try:
            return _start(command, crew, activity, stop)
        except RanksLostError as error:
            crew = crew.survivors(activity, str(error))
        gc.collect()  # what the session of all ranks held
    return 0


def _start(command: str, crew: "Crew", activity: Activity, stop: StopSignal) -> int:
    from vigmpi.runtime.watchdog import watchdog  # noqa: PLC0415

    config = crew.config
    activity.rank, activity.layout = crew.world.rank, config.layout
    bounds = config.silence_s, config.standstill_s
    with watchdog(crew.world, config.layout, activity, *bounds, mpi_tells=crew.goes_on):
        with importing():
            from vigmpi.commands.evaluate import evaluate  # noqa: PLC0415
            from vigmpi.commands.train import train  # noqa: PLC0415
        return train(crew, activity, stop) if command == "train" else evaluate(crew, activity)


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
    if doing.restarts:
        leave_world(status)
    sys.exit(status)
