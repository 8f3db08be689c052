"""Libraries that take long to import and that few commands and cells need: imported when first used."""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import matplotlib.pyplot as plt
    import pandas as pd
    from matplotlib import colors

__all__ = ["colors", "pd", "plt"]


class Lazy(ModuleType):
    """Stands for a module, which it imports when something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return getattr(import_module(self.__name__), name)


if not TYPE_CHECKING:
    colors, pd, plt = Lazy("matplotlib.colors"), Lazy("pandas"), Lazy("matplotlib.pyplot")
