"""Importing a package without another that it would only look for."""

import importlib
import sys


def import_without(name: str, absent: str) -> None:
    """Import `name` as if there were no `absent`, which stays importable afterwards.

    Where either is there already, nothing is held back.
    """
    hidden = absent not in sys.modules
    if hidden:
        sys.modules[absent] = None  # type: ignore[assignment]  # Python's word for "there is none"
    try:
        importlib.import_module(name)
    finally:
        if hidden:
            del sys.modules[absent]
