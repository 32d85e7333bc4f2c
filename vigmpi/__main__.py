"""Entry point of `python -m vigmpi` and of the console script `vigmpi`."""

import gc
import os
import platform
import sys
from collections.abc import Sequence
from traceback import format_exception
from typing import TYPE_CHECKING, NoReturn

from vigmpi import launch
from vigmpi.cli.config import (
    ExportConfig,
    LoadTestConfig,
    ModelsConfig,
    PredictConfig,
    PrepareConfig,
)
from vigmpi.cli.parse import (
    parse_export,
    parse_flags,
    parse_load_test,
    parse_models,
    parse_predict,
    parse_prepare,
)
from vigmpi.cli.parsers import COMMANDS, unknown_command
from vigmpi.comm.world import abort, exit_without_finalize, start_mpi
from vigmpi.errors import HostError, InputError, RankError, RunError
from vigmpi.host import garbage_collection_paused, has_terminal, parent_name, prepare_process
from vigmpi.kernel_cache import choose_kernel_cache
from vigmpi.monitor.activity import Activity, describe_rank
from vigmpi.process_identity import ProcessIdentity
from vigmpi.standard_streams import close_standard_output, open_standard_streams, show
from vigmpi.start_limit import StartLimit
from vigmpi.stop_signal import (
    StopSignal,
    end_on_interrupt,
    exiting_on_signals,
    ignore_late_signal,
)

if TYPE_CHECKING:
    from vigmpi.comm.roll_call import RollCall
    from vigmpi.commands.rank_group import RankGroup

_ERROR_PATIENCE_S = 60.0
_SERIAL_PARSERS = {
    "predict": parse_predict,
    "export": parse_export,
    "load-test": parse_load_test,
    "models": parse_models,
    "prepare": parse_prepare,
}


def main(arguments: Sequence[str], activity: Activity) -> int:
    """Run a command on this rank and return its exit status.

    Rank 0 alone reports an error that all ranks know of and returns a status above 0. The other
    ranks return 0, because a launcher that ends all ranks at the first non-zero status could
    otherwise swallow the message.
    """
    try:
        return _run(arguments, activity)
    except (InputError, RunError) as error:
        if activity.rank == 0:
            show(f"vigmpi: error: {error}\n", _ERROR_PATIENCE_S)
            return 2 if isinstance(error, InputError) else 1
    except HostError as error:
        if launch.is_first_of_host(os.environ):
            show(f"vigmpi: error on {platform.node()}: {error}\n", _ERROR_PATIENCE_S)
            return 2
    return 0


def _run(arguments: Sequence[str], activity: Activity) -> int:
    command, flags = "train", arguments
    if arguments and not arguments[0].startswith("-"):
        command, flags = arguments[0], arguments[1:]
    if command not in COMMANDS:
        raise InputError(unknown_command(command))
    if {"-h", "--help", "--version"} & set(flags) and activity.rank > 0:
        return 0
    if command in _SERIAL_PARSERS:
        with exiting_on_signals():
            return _run_serial(command, flags)
    given = parse_flags(flags, command)
    _prepare_process()
    limit, stop = StartLimit(given.start_timeout), StopSignal()
    world = start_mpi()
    from vigmpi.comm.roll_call import Point, RollCall  # noqa: PLC0415

    with RollCall(world, limit) as roll_call:
        # Imported here because a wrong flag is reported within 50 ms, while torch takes seconds.
        from vigmpi.commands.rank_group import RankGroup  # noqa: PLC0415
        from vigmpi.commands.shared_config import shared_config  # noqa: PLC0415

        roll_call.reached(Point.IMPORTS)
        config = shared_config(world, given)
        roll_call.reached(Point.CONFIGURATION)
        activity.layout = config.layout
        config.layout.check_world(world.size, launch.launcher(os.environ))
        if config.on_failure == "continue":
            launch.check_fault_tolerance(os.environ)
        return _run_to_end(command, RankGroup.of_world(world, config), activity, roll_call, stop)


def _run_to_end(
    command: str,
    group: "RankGroup | None",
    activity: Activity,
    roll_call: "RollCall",
    stop: StopSignal,
) -> int:
    from vigmpi.commands.rank_group import RanksLostError  # noqa: PLC0415

    while group:
        try:
            return _run_on_ranks(command, group, activity, roll_call, stop)
        except RanksLostError as error:
            group = group.survivors(activity, str(error))
        gc.collect()  # frees the model and the buffers of the larger group
    return 0


def _run_on_ranks(
    command: str, group: "RankGroup", activity: Activity, roll_call: "RollCall", stop: StopSignal
) -> int:
    from vigmpi.monitor.watchdog import watchdog  # noqa: PLC0415

    config = group.config
    activity.rank, activity.layout = group.world.rank, config.layout
    timeouts = config.heartbeat_timeout, config.stall_timeout
    tolerant = group.continues_on_failure
    with watchdog(group.world, config.layout, activity, *timeouts, mpi_reports_failures=tolerant):
        roll_call.end()  # from now on, the watchdog notices missing ranks
        with garbage_collection_paused():
            from vigmpi.commands.evaluate import evaluate  # noqa: PLC0415
            from vigmpi.commands.infer import infer  # noqa: PLC0415
            from vigmpi.commands.train import train  # noqa: PLC0415
        if command == "infer":
            return infer(group, activity, stop)
        return (train if command == "train" else evaluate)(group, activity, stop)


def _prepare_process() -> None:
    prepare_process()
    if (line := choose_kernel_cache(os.environ)) and launch.rank(os.environ) == 0:
        show(f"{line}\n")


def _run_serial(command: str, flags: Sequence[str]) -> int:
    config = _SERIAL_PARSERS[command](flags)
    if (tasks := launch.num_tasks(os.environ)) > 1:
        raise InputError(
            f"too many ranks: {command} runs on one rank, but {tasks} were started. Use vigmpi "
            f"{command} without mpirun or srun."
        )
    if isinstance(config, LoadTestConfig):
        from vigmpi.commands.load_test import load_test  # noqa: PLC0415

        load_test(config)  # in the environment that the program would have without it
        return 0
    _prepare_process()
    if isinstance(config, PrepareConfig):
        from vigmpi.commands.prepare import prepare  # noqa: PLC0415

        prepare(config)
    elif isinstance(config, PredictConfig):
        with garbage_collection_paused():
            from vigmpi.commands.predict import predict  # noqa: PLC0415
        predict(config)
    elif isinstance(config, ExportConfig):
        with garbage_collection_paused():
            from vigmpi.commands.export import export  # noqa: PLC0415
        export(config)
    elif isinstance(config, ModelsConfig):
        with garbage_collection_paused():
            from vigmpi.commands.models import models  # noqa: PLC0415
        models(config)
    return 0


def describe_failure(error: BaseException, activity: Activity) -> str:
    """Return the message for an error that ends the run: one line, then the traceback."""
    if isinstance(error, RankError):
        return f"{error}\n"
    rank = describe_rank(activity.rank, activity.layout, str(ProcessIdentity.own()))
    line = f"{rank} failed in {activity.current}: {type(error).__name__}: {error}"
    return "".join([line.rstrip(": "), "\n", *format_exception(error)])


def run() -> NoReturn:
    """Run the command of `sys.argv` and exit with its status."""
    launch.leave_shell_of_step(os.environ, parent_name(), has_terminal=has_terminal())
    activity = Activity(launch.rank(os.environ))
    open_standard_streams()
    end_on_interrupt()
    try:
        status = main(sys.argv[1:], activity)
    except BaseException as error:
        if isinstance(error, SystemExit) and "mpi4py.MPI" not in sys.modules:
            raise  # after --help, or a signal to a command that runs on one rank
        abort(describe_failure(error, activity))  # an error of one rank must end all of them
    ignore_late_signal()
    close_standard_output()
    if activity.restarts:
        exit_without_finalize(status)
    sys.exit(status)


if __name__ == "__main__":
    run()
