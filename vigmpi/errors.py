"""Errors that one line explains."""


class InputError(Exception):
    """Bad usage or input: one line that says what is wrong, what was given, what to type.

    `__main__` prints it from one rank and leaves with status 2.
    """


class RunError(Exception):
    """What ends a run although program and input are right, such as a full disk: one line.

    `__main__` prints it without a traceback, and ends all ranks with status 1.
    """
