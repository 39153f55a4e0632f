"""For all tests: hypothesis judges values, not the speed of the machine it runs on, and every run has the same
examples (`--hypothesis-profile random` looks for new ones); and what every worker would do for nothing while
it collects."""

import gc
import logging
import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

from greenlang_iot.model.imports import import_without

settings.register_profile(
    "random", derandomize=False, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "project", settings.get_profile("random"), derandomize=True, database=None
)
settings.load_profile("project")

# it brings a grammar of Unicode that takes 1.6 s to build, for a format that no schema of ours has
import_without("jsonschema", "rfc3987_syntax")
gc.disable()  # until all is collected: what is imported stays

# who is started in the background of a script ignores Ctrl-C, and so would every command that a test starts
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """A command that ran in this process has configured it for itself: the next test sees none of that."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    if structlog.is_configured():
        root.handlers[:] = handlers
        root.setLevel(level)
        structlog.reset_defaults()


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was imported is never looked through again: tests that collect garbage take it from here."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Nanobind, of DuckDB, calls a leak what nobody looks through at the end."""
    gc.unfreeze()
