"""The error that a user can correct."""


class UserError(ValueError):
    """A mistake that the user can mend. Its text is the one line that they see, with exit status 2."""
