"""What runs are called: a name is that of a folder, and the seed of a run other than its experiment's own ends it."""

import re

from tinyclf.errors import TinyclfError

NAME = re.compile(r"[A-Za-z0-9][\w.=+-]{0,99}")
SEED = re.compile(r"-seed-(\d+)$")


def check(name: str, what: str = "run") -> None:
    """Raise TinyclfError unless `name` can be a run's."""
    if not NAME.fullmatch(name):
        raise TinyclfError(f"{what} = {name!r}: expected the name of a folder, letters, digits and -_.=+ alone")


def with_seed(name: str, seed: int) -> str:
    """The name of a run of `name` with a seed that is not its own."""
    return f"{name}-seed-{seed}"


def family(name: str) -> str:
    """The experiment that a run belongs to by its name, whatever its seed."""
    return SEED.sub("", name)


def seed_of(name: str) -> int | None:
    """The seed that a run's name tells; None for the experiment's own."""
    found = SEED.search(name)
    return int(found[1]) if found else None
