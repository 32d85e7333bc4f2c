"""What a user can put right."""


class InputError(Exception):
    """Bad usage or input: one line that says what is wrong, what was given, what to type.

    `__main__` prints it from one rank and leaves with status 2.
    """
