"""The one exception that this package raises on purpose."""


class TinyclfError(Exception):
    """Says what is wrong, where, and what to do about it; the command line prints it without a traceback."""
