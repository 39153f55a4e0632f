"""`greenlang-iot reload`: a running gateway reads registry and settings again."""

import os

from greenlang_iot.cli.gateway_client import ask
from greenlang_iot.cli.options import CONFIG_FILES, AsJson, ConfigFiles
from greenlang_iot.cli.terminal import counted, print_json, say
from greenlang_iot.model.errors import GatewayError, InputError


def reload(config: ConfigFiles = CONFIG_FILES, as_json: AsJson = False) -> None:
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
    if as_json:
        print_json(answer)
        return
    devices = answer["devices"]
    say(
        f"reloaded: {counted(devices['registered'], 'device')} ({devices['added']:,} added, "
        f"{devices['removed']:,} removed)"
    )
    for what, names in (("taken over", "settings"), ("needs a restart", "needs_restart")):
        for name in answer[names]:
            say(f"  {what}: {name}")
