"""`greenlang-iot config show|schema|init|check`, through the public command line."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner, Result

from greenlang_iot.cli.main import app
from greenlang_iot.model.errors import InputError

SHIPPED = Path(__file__).resolve().parents[3] / "config" / "iot-config.yaml"
REGISTRY = SHIPPED.parents[1] / "devices" / "devices-registry.json"
TOKEN = "GREENLANG_IOT__SINKS__INFLUXDB__TOKEN"


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], env=env, catch_exceptions=False)


def test_show_says_where_each_value_comes_from_and_masks_secrets(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter2-of-the-file\n")
    password.chmod(0o600)
    config = tmp_path / "c.yaml"
    config.write_text(
        f"mqtt:\n  brokers:\n    - host: h1\n      tls: {{}}\n      username: u\n      password_file: {password}\n"
        "sinks:\n  influxdb:\n    enabled: true\n"
    )
    env = {TOKEN: "secret-token-of-the-environment", "GREENLANG_IOT__RUNTIME__SHARDS": "3"}
    result = run("config", "show", "--config", config, "--json", env=env)
    assert result.exit_code == 0
    shown = json.loads(result.stdout)
    assert shown["mqtt.brokers[0].host"] == {"value": "h1", "source": f"{config}:3"}
    assert shown["runtime.shards"] == {
        "value": 3,
        "source": "environment variable GREENLANG_IOT__RUNTIME__SHARDS",
    }
    assert shown["mqtt.qos"] == {"value": 1, "source": "default"}
    assert shown["mqtt.brokers[0].password"]["value"] == "********"
    assert shown["mqtt.brokers[0].password"]["source"] == f"{config}:6 (password_file)"
    assert shown["sinks.influxdb.token"] == {
        "value": "********",
        "source": f"environment variable {TOKEN}",
    }
    text = run("config", "show", "--config", config, env=env).stdout
    for secret in ("hunter2", "secret-token"):
        assert secret not in result.stdout + text
    assert "\x1b[" not in text


def test_show_masks_what_is_secret_in_an_address(tmp_path: Path) -> None:
    """A login before the @, and the path of a webhook: for many services it is the password."""
    config = tmp_path / "c.yaml"
    config.write_text(
        "alerts:\n  notifiers:\n"
        "  - {name: a, kind: alertmanager, url: 'https://me:hunter2@am.example/alerts'}\n"
        "  - {name: w, kind: webhook, url: 'https://hook.example/services/hunter2?key=hunter2'}\n"
        "  - {name: l, kind: log}\n"
    )
    result = run("config", "show", "alerts.notifiers", "--config", config, "--json")
    assert "hunter2" not in result.stdout
    shown = json.loads(result.stdout)
    assert [shown[f"alerts.notifiers[{i}].url"]["value"] for i in range(3)] == [
        "https://********@am.example/alerts",
        "https://hook.example/********",
        "",
    ]


def test_show_only_what_was_changed_below_a_prefix(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("runtime:\n  shards: 3\nlog:\n  level: debug\n")
    result = run("config", "show", "runtime", "--config", config, "--changed")
    assert result.stdout == f"runtime.shards: 3  # {config}:2\n"
    assert run("config", "show", "batch", "--config", config, "--changed").stdout == ""


def test_show_of_a_setting_that_there_is_not(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("log:\n  level: debug\n")
    with pytest.raises(InputError, match=r'no setting mqtt\.laiout; did you mean "mqtt\.layout"\?'):
        run("config", "show", "mqtt.laiout", "--config", config)


def test_schema_accepts_the_shipped_file_and_refuses_mistakes() -> None:
    schema = json.loads(run("config", "schema").stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    document = yaml.safe_load(SHIPPED.read_text())
    jsonschema.validate(document, schema)
    document["mqtt"]["brokers"][0]["port"] = 70_000
    document["sinks"]["kafka"]["bootstrap"] = "x"
    places = {
        ".".join(map(str, e.absolute_path))
        for e in jsonschema.Draft202012Validator(schema).iter_errors(document)
    }
    assert places == {"mqtt.brokers.0.port", "sinks.kafka"}


@pytest.mark.parametrize("sinks", ["lake", "influxdb", "kafka", "lake,influxdb,kafka"])
@pytest.mark.parametrize("broker", ["mqtt.example:8883", "10.0.0.1:1883"])
def test_init_writes_a_file_that_check_accepts(tmp_path: Path, sinks: str, broker: str) -> None:
    config = tmp_path / "sub" / "c.yaml"
    result = run(
        "config", "init", "--output", config, "--broker", broker, "--sinks", sinks, "--yes"
    )
    assert result.exit_code == 0
    check = ("config", "check", "--config", config, "--devices-file", REGISTRY, "--json")
    checked = run(*check, env={TOKEN: "t0ken"})
    assert checked.exit_code == 0
    assert json.loads(checked.stdout)["valid"] is True
    written = yaml.safe_load(config.read_text())
    host, port = broker.split(":")
    assert written["mqtt"]["brokers"][0]["host"] == host
    assert written["mqtt"]["brokers"][0]["port"] == int(port)
    assert ("tls" in written["mqtt"]["brokers"][0]) is (port == "8883")
    enabled = {n for n in ("lake", "influxdb", "kafka") if written["sinks"][n]["enabled"]}
    assert enabled == set(sinks.split(","))


def test_init_asks_for_no_registry_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = run("config", "init", "--yes", "--output", "first.yaml").stderr
    assert "devices discover" in steps
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / "devices-registry.json").touch()
    steps = run("config", "init", "--yes", "--output", "second.yaml").stderr
    assert "discover" not in steps
    assert "run --config second.yaml" in steps


def test_init_never_writes_over_a_file(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        run("config", "init", "--output", config, "--yes")
    assert config.read_text() == "mine"


@pytest.mark.parametrize(
    "flags",
    [
        ("--broker", "host:port"),
        ("--sinks", "mysql"),
        ("--topic", "no/placeholders"),
        ("--instance", "not a name!"),
    ],
)
def test_init_writes_nothing_for_a_wrong_answer(tmp_path: Path, flags: tuple[str, str]) -> None:
    config = tmp_path / "c.yaml"
    with pytest.raises(InputError):
        run("config", "init", "--output", config, "--yes", *flags)
    assert not config.exists()


@pytest.mark.parametrize(
    ("version", "word"), [("2", "newer"), ("0", "older"), ("x", "not a version")]
)
def test_a_file_of_another_version_says_what_to_do(tmp_path: Path, version: str, word: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"config_version: {version}\n")
    result = run("config", "check", "--config", config, "--devices-file", REGISTRY)
    assert result.exit_code == 2
    assert f"{config}:1: config_version: " in result.stdout
    assert word in result.stdout


def test_check_counts_the_windows_of_connections_that_there_will_be(tmp_path: Path) -> None:
    config, registry = tmp_path / "c.yaml", tmp_path / "r.json"
    config.write_text("runtime: {shards: 4}\nmqtt: {brokers: [{connections_per_shard: 3}]}\n")
    kind = {"metrics": {"power": {"unit": "kW"}}}
    device = {"id": "d1", "org": "o", "site": "s", "type": "t"}
    registry.write_text(json.dumps({"version": 1, "types": {"t": kind}, "devices": [device]}))
    text = run("config", "check", "--config", config, "--devices-file", registry).stdout
    assert "4 shards, 1 connection to 1 broker, 1 topic filter" in text  # one site has one filter
    assert "allow 131,070 messages/s" in text  # 65,535 unacknowledged, each for half a second


def test_an_empty_registry_is_said_where_nothing_would_be_heard(tmp_path: Path) -> None:
    config, registry = tmp_path / "c.yaml", tmp_path / "r.json"
    registry.write_text('{"version": 1, "types": {}, "devices": []}')
    arguments = ("config", "check", "--config", config, "--devices-file", registry)
    config.write_text("{}")
    said = "warning the gateway would hear nothing: the registry has no devices; `greenlang-iot dev"
    assert said in run(*arguments).stdout
    config.write_text("mqtt: {layout: shared}")
    assert said not in run(*arguments).stdout


def test_five_mistakes_are_named_with_their_lines(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(
        "mqtt:\n  topic: telemetry\n  brokers:\n    - prot: 1\n      port: 99999\n"
        "sinks:\n  influxdb: {enabled: true}\nruntime:\n  shards: many\n"
    )
    result = run("config", "check", "--config", config, "--devices-file", REGISTRY)
    assert result.exit_code == 2
    for line in (2, 4, 5, 7, 9):
        assert f"{config}:{line}: " in result.stdout


def test_a_file_that_is_not_there_is_said_with_where_it_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text("sinks: {influxdb: {token_file: secrets/token}}\n")
    result = run("config", "check", "--config", "c.yaml", "--devices-file", REGISTRY)
    assert result.exit_code == 2
    said = f"cannot read secrets/token: No such file or directory (looked for in {tmp_path})"
    assert said in result.stdout


def test_check_reads_the_alert_rules_too(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(
        "version: 1\nrules:\n  - {name: hot, match: {type: none}, range: {above: 1}}\n"
    )
    config = tmp_path / "c.yaml"
    config.write_text(f"alerts: {{rules_file: {rules}}}\n")
    arguments = ("config", "check", "--config", config, "--devices-file", REGISTRY)
    result = run(*arguments)
    assert result.exit_code == 0
    assert "1 alert rules" in result.stdout
    assert "warning alert rule hot matches nothing in this registry" in result.stdout
    rules.write_text("version: 1\nrules:\n  - {name: hot,\n     rnage: 5}\n")
    result = run(*arguments, "--json")
    assert result.exit_code == 2
    mistakes = json.loads(result.stdout)["mistakes"]
    assert f"{rules}:4: rules[0].rnage: there is no such key" in mistakes
    rules.unlink()
    assert f"cannot read the alert rules {rules}" in run(*arguments).stdout
