"""`greenlang-iot reload`: asks the running gateway with the token of its data_dir."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from greenlang_iot.cli.main import app
from greenlang_iot.model.errors import GatewayError, InputError
from greenlang_iot.observe.access import Tokens
from greenlang_iot.observe.admin import AdminServer, Status
from greenlang_iot.runtime.instance_lock import InstanceLock
from greenlang_iot.settings.model import AdminSettings
from greenlang_iot.simulate.ca import Authority

Answer = tuple[bool, dict[str, Any]]


@contextmanager
def gateway(folder: Path, answer: Answer, **admin: Any) -> Iterator[Path]:
    """The settings file of a running admin endpoint, and of its data_dir."""
    data = folder / "data"
    lock = InstanceLock(data)
    lock.__enter__()
    loop = asyncio.new_event_loop()

    async def reload(actor: str) -> Answer:
        return answer

    settings = AdminSettings.model_validate({"port": 0} | admin)
    server = AdminServer(settings, bytes, Status, Tokens.of(data), reload)
    port = loop.run_until_complete(server.start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    config = folder / "c.yaml"
    config.write_text(yaml.safe_dump({"data_dir": str(data), "admin": admin | {"port": port}}))
    try:
        yield config
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(server.stop())
        loop.close()
        lock.__exit__()


def reload(config: Path, *more: str) -> Result:
    arguments = ["reload", "--config", str(config), *more]
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize("with_tls", [False, True])
def test_it_says_what_was_taken_over(tmp_path: Path, with_tls: bool) -> None:
    admin = {}
    if with_tls:  # whatever name the certificate is for: it is the gateway's own
        identity = Authority(tmp_path / "ca").server(("gateway.example",))
        tls = {"cert_file": str(identity.cert_file), "key_file": str(identity.key_file)}
        admin = {"tls": tls, "host": "0.0.0.0"}
    answer = {
        "devices": {"registered": 3, "added": 2, "removed": 1},
        "settings": ["log.level"],
        "needs_restart": ["setting instance"],
    }
    with gateway(tmp_path, (True, answer), **admin) as config:
        result = reload(config)
        as_json = reload(config, "--json")
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "reloaded: 3 devices (2 added, 1 removed)",
        "  taken over: log.level",
        "  needs a restart: setting instance",
    ]
    assert json.loads(as_json.stdout) == {"reloaded": True} | answer


def test_it_finds_a_gateway_on_a_port_of_the_systems_choice(tmp_path: Path) -> None:
    with gateway(tmp_path, (False, {"reasons": ["it was asked"]})) as config:
        document = yaml.safe_load(config.read_text())
        url = f"http://127.0.0.1:{document['admin']['port']}\n"
        (tmp_path / "data" / "run" / "admin-url").write_text(url)
        document["admin"]["port"] = 0
        config.write_text(yaml.safe_dump(document))
        with pytest.raises(InputError) as raised:
            reload(config)
    assert raised.value.problems == ("it was asked",)


def test_a_refusal_has_every_reason(tmp_path: Path) -> None:
    with (
        gateway(tmp_path, (False, {"reasons": ["line 3: wrong"]})) as config,
        pytest.raises(InputError) as raised,
    ):
        reload(config)
    assert raised.value.problems == ("line 3: wrong",)


def test_another_token_is_refused(tmp_path: Path) -> None:
    with gateway(tmp_path, (True, {})) as config:
        (tmp_path / "data" / "admin-token").write_text("of another gateway")
        with pytest.raises(GatewayError, match="answered 401"):
            reload(config)


def test_somebody_else_answers(tmp_path: Path) -> None:
    with gateway(tmp_path, (True, {})) as config:
        document = yaml.safe_load(config.read_text())
        with socket.create_server(("127.0.0.1", 0)) as other:
            document["admin"]["port"] = other.getsockname()[1]
            config.write_text(yaml.safe_dump(document))

            def answer() -> None:
                connection, _ = other.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

            thread = threading.Thread(target=answer)
            thread.start()
            with pytest.raises(GatewayError, match=r"what answers at .* is no gateway"):
                reload(config)
            thread.join()


def test_whoever_took_the_port_of_a_gateway_that_does_not_run_gets_no_token(
    tmp_path: Path,
) -> None:
    """Any user of the machine can listen where the gateway will: the token would be theirs for ever."""
    with gateway(tmp_path, (True, {})) as config:
        pass
    port = yaml.safe_load(config.read_text())["admin"]["port"]
    with socket.create_server(("127.0.0.1", port)) as other:
        other.setblocking(False)
        with pytest.raises(GatewayError, match=r"no gateway runs with the data_dir .*data"):
            reload(config)
        with pytest.raises(BlockingIOError):
            other.accept()


def test_no_gateway_is_one_sentence(tmp_path: Path) -> None:
    with gateway(tmp_path, (True, {})) as config:
        document = yaml.safe_load(config.read_text())
        with socket.socket() as other:  # bound, and nobody listens
            other.bind(("127.0.0.1", 0))
            document["admin"]["port"] = other.getsockname()[1]
            config.write_text(yaml.safe_dump(document))
            with pytest.raises(
                GatewayError, match=r"no gateway answers at 127\.0\.0\.1:\d+ \(conn"
            ):
                reload(config)
    (tmp_path / "data" / "admin-token").unlink()
    with pytest.raises(InputError, match="no gateway was started on this data_dir yet"):
        reload(config)
