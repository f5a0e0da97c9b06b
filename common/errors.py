"""The error that a user can correct."""


class UserError(ValueError):
    """A mistake that the user can correct. Its text is the one line that the user sees; the exit status is 2."""
