"""The exceptions that this package raises on purpose."""


class TinyclfError(Exception):
    """Says what is wrong, where, and what to do about it; the command line prints it without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows (IPython asks for it): the message, as there is nothing to debug."""
        return [f"TinyclfError: {self}"]


class NewerVersionError(TinyclfError):
    """A file is whole, and was written by a later version: not to be replaced as if it were damaged."""


class UsageError(TinyclfError):
    """Something was asked for that cannot be: the command line ends with status 2, and with 1 for all others."""
