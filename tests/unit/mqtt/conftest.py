"""The tests of the connection run on both event loops."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from greenlang_iot.mqtt.warm import warm


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name == "test_mqtt_connection.py":
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}


@pytest.fixture(scope="session", autouse=True)
def _kernels_are_compiled() -> None:
    """Compiling takes seconds, in which no event loop would run."""
    warm()
