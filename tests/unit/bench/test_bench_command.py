"""What `bench ladder` refuses, in a sentence, before anything is started."""

import pytest

from greenlang_iot.cli.bench import ladder
from greenlang_iot.model.errors import InputError


def test_latency_is_not_measured_through_a_real_broker() -> None:
    with pytest.raises(InputError, match=r"is its own broker, .* leave --broker out"):
        ladder("latency", broker="mqtts://127.0.0.1:8883")


def test_servers_wants_a_server() -> None:
    with pytest.raises(InputError, match="name one with --broker, --kafka or --influxdb"):
        ladder("servers")


def test_an_unknown_ladder_is_told_which_there_are() -> None:
    with pytest.raises(
        InputError, match="no ladder 'stairs'; there are latency, servers, features"
    ):
        ladder("stairs")
