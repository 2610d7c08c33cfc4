"""Packages whose names load on first use, so that importing one costs nothing."""

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(
    package: str, home: Mapping[str, Sequence[str]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """What a package needs to load its names on first use.

    Args:
        package: `__name__` of the package.
        home: submodule → the names that it gives to the package.

    Returns:
        `__getattr__`, `__dir__` and `__all__` of the package.
    """
    module_of = {name: module for module, names in home.items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{package}.{module_of[name]}"), name)
        # Bound in the package, so that the next access costs nothing.
        setattr(sys.modules[package], name, value)
        return value

    names = list(module_of)
    return get, lambda: names, names
