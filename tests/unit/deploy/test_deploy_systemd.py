"""The systemd unit: its command line, its settings and its limits fit the gateway."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from greenlang_iot.cli.main import app
from greenlang_iot.runtime.courier import DRAIN_TIMEOUT
from greenlang_iot.runtime.supervisor import CLOSE_WITHIN
from greenlang_iot.settings.load import load

ROOT = Path(__file__).resolve().parents[3]
UNIT = ROOT / "config" / "systemd" / "greenlang-iot.service"
TEXT = UNIT.read_text()


def values(key: str) -> list[str]:
    return re.findall(rf"^{key}=(.*)$", TEXT, re.M)


def value(key: str) -> str:
    (found,) = values(key)
    return found


def test_the_command_line_is_understood_and_names_files_of_the_release() -> None:
    words = shlex.split(value("ExecStart"))
    assert words[0] == "/opt/greenlang-iot/bin/greenlang-iot"
    command: Any = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    context = command.make_context("run", words[2:])
    profile, site = context.params["config"]
    assert (ROOT / "config" / Path(profile).name).is_file()
    assert Path(site).name == "site.yaml"


def test_the_profile_writes_where_the_unit_lets_it() -> None:
    environ = {"GREENLANG_IOT__SINKS__INFLUXDB__TOKEN": "t"}
    settings = load(ROOT / "config" / "production.yaml", environ).settings
    assert str(settings.data_dir) == f"/var/lib/{value('StateDirectory')}"
    assert "XDG_CACHE_HOME=%C" in values("Environment")
    assert value("CacheDirectory") == "greenlang-iot"  # the folder of the kernels


def test_it_is_not_killed_before_it_has_drained() -> None:
    environ = {"GREENLANG_IOT__SINKS__INFLUXDB__TOKEN": "t"}
    settings = load(ROOT / "config" / "production.yaml", environ).settings
    drain = settings.runtime.drain_timeout + CLOSE_WITHIN + DRAIN_TIMEOUT
    assert int(value("TimeoutStopSec")) > drain
    assert value("KillMode") == "mixed"
    assert value("Type") == "notify"
    assert value("ExecReload") == "/bin/kill -HUP $MAINPID"
    assert value("RestartPreventExitStatus") == "2"


def test_secrets_are_credentials_that_the_settings_read(tmp_path: Path) -> None:
    names = [line.split(":")[0] for line in values("LoadCredential")]
    for name in names:
        (tmp_path / name).write_text("a secret\n")
        (tmp_path / name).chmod(0o400)
    given = [line.replace("%d", str(tmp_path)).split("=", 1) for line in values("Environment")]
    environ = {key: text for key, text in given if key.startswith("GREENLANG_IOT__")}
    loaded = load(ROOT / "config" / "production.yaml", environ)
    assert len(environ) == len(names) == 2
    broker, influxdb = loaded.settings.mqtt.brokers[0], loaded.settings.sinks.influxdb
    for secret in (broker.password, influxdb.token):
        assert secret is not None
        assert secret.get_secret_value() == "a secret"


def test_it_may_do_little_on_the_machine() -> None:
    for key, wanted in {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "CapabilityBoundingSet": "",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "PrivateDevices": "yes",
        "UMask": "0077",
        "LimitCORE": "0",  # a core holds the secrets
    }.items():
        assert value(key) == wanted
    # Kernels are compiled: this would kill them.
    assert values("MemoryDenyWriteExecute") == []
    assert int(value("LimitNOFILE")) >= 4_096


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_understands_it_and_calls_it_safe(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(TEXT.replace("/opt/greenlang-iot/bin/greenlang-iot", sys.executable))
    for command in (["verify"], ["security", "--offline=true", "--threshold=20"]):
        done = subprocess.run(
            ["systemd-analyze", *command, str(unit)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        assert UNIT.name not in done.stderr, done.stderr
