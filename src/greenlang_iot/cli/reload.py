"""`greenlang-iot reload`: a running gateway reads registry and settings again."""

import os
from pathlib import Path
from typing import Annotated

import typer

from greenlang_iot.cli.gateway_client import ask
from greenlang_iot.cli.terminal import print_json
from greenlang_iot.model.errors import GatewayError, InputError


def reload(
    config: Annotated[
        Path, typer.Option(help="Settings (YAML) the gateway was started with.")
    ] = Path("config/iot-config.yaml"),
) -> None:
    """Have the running gateway read registry and settings again, and say what it took over.

    With a mistake in either, nothing changes. Needs to run as the gateway's user, who can read its token.

    Example: greenlang-iot reload --config config/iot-config.yaml

    Exit codes: 0 reloaded, 1 no gateway answers, 2 refused with every reason.
    """
    from greenlang_iot.settings.load import load

    status, answer = ask(load(config, os.environ).settings, "POST", "/-/reload")
    if status == 422:
        raise InputError("the gateway refused, and goes on as it was", tuple(answer["reasons"]))
    if status != 200:
        raise GatewayError(f"the gateway answered {status}: {answer.get('error', answer)}")
    print_json(answer)
