"""The one error that a user's mistake raises."""


class UserError(ValueError):
    """Something the user gave does not work: one line saying what, where and what to do about it.

    The command line prints the message alone and exits with status 2.
    """
