"""What ends a run with one line."""


class InputError(Exception):
    """Bad usage or input: one line that says what is wrong, what was given, what to type.

    `__main__` prints it from one rank and leaves with status 2.
    """

    def __str__(self) -> str:
        """In one line, whatever was given."""
        return " ".join(super().__str__().split())


class RankError(Exception):
    """A failure that one rank alone knows of, such as a full disk: one line, no traceback.

    It ends all ranks.
    """


class RunError(Exception):
    """A run that failed in a way that all ranks know of: one line, and status 1."""
