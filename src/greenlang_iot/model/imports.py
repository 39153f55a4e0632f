"""Importing a package without what it would only look for, or load for nothing."""

import importlib
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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


@contextmanager
def without_system_cas() -> Iterator[None]:
    """Inside, new TLS contexts trust nobody: reading the system's CAs takes 0.05 s for each.

    aiohttp makes two as it is imported, for requests without a context; ours bring theirs.
    """
    names = ("load_default_certs", "set_default_verify_paths")
    before = {name: ssl.SSLContext.__dict__.get(name) for name in names}
    for name in names:
        setattr(ssl.SSLContext, name, _nothing)
    try:
        yield
    finally:
        for name, method in before.items():
            if method is None:  # inherited
                delattr(ssl.SSLContext, name)
            else:
                setattr(ssl.SSLContext, name, method)


def _nothing(context: ssl.SSLContext, *_: object) -> None:
    """In the place of what reads certificates."""
