"""Settings come from a file, the environment and overrides; every mistake is named at once."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from annotated_types import Ge, Gt
from pydantic import BaseModel, ValidationError

from greenlang_iot.model.errors import InputError
from greenlang_iot.settings.expect import slot_at
from greenlang_iot.settings.load import Loaded, load
from greenlang_iot.settings.model import BrokerSettings, Section, Settings, TlsSettings

SHIPPED = Path(__file__).resolve().parents[3] / "config" / "iot-config.yaml"
TOKEN = {"GREENLANG_IOT__SINKS__INFLUXDB__TOKEN": "t0k-en"}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "c.yaml"
        path.write_text(text)
        return path

    return write


def problems(path: Path | None, environ: Any = None, overrides: Any = None) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        load(path, environ, overrides)
    return caught.value.problems


def only(*args: Any) -> str:
    (problem,) = problems(*args)
    return problem


def test_the_defaults_are_valid() -> None:
    assert load(None).settings == Settings()


def test_the_shipped_file_loads_and_is_the_documented_deployment() -> None:
    settings = load(SHIPPED, TOKEN).settings
    assert settings.mqtt.brokers[0].tls == TlsSettings(ca_file=Path("config/tls/ca.crt"))
    assert settings.mqtt.brokers[0].port == 8883
    influx, kafka = settings.sinks.influxdb, settings.sinks.kafka
    assert (influx.enabled, influx.org, influx.bucket) == (True, "greenlang", "iot_data")
    assert (kafka.enabled, kafka.partitions) == (True, 12)
    assert influx.token is not None
    assert influx.token.get_secret_value() == "t0k-en"


def test_the_shipped_file_needs_only_the_token() -> None:
    assert "needs a token: set GREENLANG_IOT__SINKS__INFLUXDB__TOKEN" in only(SHIPPED)


def keys(model: type[BaseModel], prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found: list[tuple[str | int, ...]] = []
    for name in model.model_fields:
        place = (*prefix, name)
        slot = slot_at((*place, 0)) if name == "brokers" else slot_at(place)
        assert slot is not None
        if slot.section is None:
            found.append(place)
        else:
            found += keys(slot.section, (*place, 0) if name == "brokers" else place)
    return found


def test_every_setting_stands_in_the_shipped_file_or_is_mentioned_in_a_comment() -> None:
    """A commented key counts inside the lines of its section."""
    text = SHIPPED.read_text()
    tree = yaml.compose(text)
    lines = text.splitlines()

    def section_lines(place: tuple[str | int, ...]) -> tuple[Any, str]:
        node: Any = tree
        start, end = 0, len(lines)
        for step in place:
            if isinstance(step, int):
                node = node.value[step]
                continue
            found = {k.value: (k, v) for k, v in node.value}
            if step not in found:
                return None, "\n".join(lines[start:end])
            key, node = found[step]
            start, end = key.start_mark.line, node.end_mark.line + 1
        return node, "\n".join(lines[start:end])

    missing = []
    for place in keys(Settings):
        parent, block = section_lines(place[:-1])
        name = str(place[-1])
        written = parent is not None and name in {k.value for k, _ in parent.value}
        commented = any(
            line.strip().startswith("#") and f"{name}:" in line for line in block.splitlines()
        )
        # a section that is shown as a comment on one line, as in `# tls: {ca_file: …}`
        inline = str(place[-2:-1][0]) == "tls" and "# tls: {" in block if len(place) > 1 else False
        if not (written or commented or inline):
            missing.append(place)
    assert missing == []


def test_what_the_shipped_file_shows_as_a_value_is_the_default() -> None:
    """Except for what makes it the documented deployment."""
    chosen = {
        ("mqtt", "brokers"),
        ("sinks", "influxdb", "enabled"),
        ("sinks", "influxdb", "token"),
        ("sinks", "kafka", "enabled"),
        ("sinks", "lake", "enabled"),
    }

    def differences(a: Any, b: Any, place: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
        if isinstance(a, BaseModel):
            if type(a) is not type(b):
                return {place}
            names = type(a).model_fields
            return {
                d for n in names for d in differences(getattr(a, n), getattr(b, n), (*place, n))
            }
        return set() if a == b else {place}

    shipped = load(SHIPPED, TOKEN).settings
    assert differences(shipped, Settings()) == chosen
    broker = shipped.mqtt.brokers[0]
    assert differences(broker, BrokerSettings()) == {("tls",), ("username",)}


def test_environment_and_overrides_win_in_this_order(write: Any) -> None:
    path = write("mqtt: {qos: 1, brokers: [{host: file, port: 1}]}\n")
    environ = {
        "GREENLANG_IOT__MQTT__BROKERS__0__HOST": "env",
        "GREENLANG_IOT__MQTT__BROKERS__0__PORT": "2",
        "GREENLANG_IOT__MQTT__BROKERS__1__NAME": "second",
        "GREENLANG_IOT__MQTT__QOS": "0",
        "GREENLANG_IOT__RUNTIME__SHARDS": "7",
        "UNRELATED": "x",
    }
    settings = load(path, environ, {"mqtt.brokers[0].port": 3, "batch.linger": "0.5"}).settings
    first, second = settings.mqtt.brokers
    assert (first.host, first.port, second.name) == ("env", 3, "second")
    assert (settings.mqtt.qos, settings.runtime.shards, settings.batch.linger) == (0, 7, 0.5)


def test_environment_values_are_yaml_where_a_text_is_not_expected() -> None:
    environ = {
        "GREENLANG_IOT__MQTT__BROKERS": "[{host: a}, {name: b, host: 'c'}]",
        "GREENLANG_IOT__MQTT__BROKERS__0__USERNAME": "12: [34",
        "GREENLANG_IOT__MQTT__BROKERS__0__TLS__CA_FILE": "x.pem",
        "GREENLANG_IOT__MQTT__BROKERS__1__TLS": "null",
        "GREENLANG_IOT__DETECT__ENABLED": "false",
        "GREENLANG_IOT__SINKS__LAKE__PATH": "",
    }
    settings = load(None, environ).settings
    a, b = settings.mqtt.brokers
    assert (a.host, a.username, b.host, b.tls) == ("a", "12: [34", "c", None)
    assert a.tls == TlsSettings(ca_file=Path("x.pem"))
    assert (settings.detect.enabled, settings.sinks.lake.path) == (False, None)


def test_plain_yaml_scalars_become_the_texts_they_look_like(write: Any) -> None:
    text = "mqtt: {brokers: [{protocol: 5, username: 007, tls: {minimum_version: 1.2}}]}"
    broker = load(write(text)).settings.mqtt.brokers[0]
    assert broker.protocol == "5"
    assert broker.username == "007"
    assert broker.tls is not None
    assert broker.tls.minimum_version == "1.2"


def test_a_section_without_keys_is_the_default_section(write: Any) -> None:
    assert load(write("mqtt:\n  # qos: 0\nsinks:\n")).settings == Settings()
    assert load(write("")).settings == Settings()


def test_every_mistake_is_reported_at_once_with_its_line(write: Any) -> None:
    path = write(
        "mqtt:\n"
        "  qoss: 1\n"
        "  topic: greenlang/+/{device}\n"
        "  brokers:\n"
        "    - host: b1\n"
        "      port: 70000\n"
        "      tls: {verify: maybe}\n"
        "      protocol: 3.1\n"
        "limits:\n"
        "  unknown_devices: acept\n"
        "batch: {linger: 5}\n"
        "sinks:\n"
        "  lake: {enabled: false}\n"
        "snks: {}\n"
    )
    found = problems(path, {"GREENLANG_IOT__RUNTIME__SHARDS": "many"})
    expected = {
        f"{path}:2: mqtt.qoss": 'unknown key qoss; did you mean "qos"?',
        f"{path}:3: mqtt.topic": "must hold {org} once",
        f"{path}:6: mqtt.brokers[0].port": "'70000' does not fit; expected a whole number from 1 to",
        f"{path}:7: mqtt.brokers[0].tls.verify": "expected true or false",
        f"{path}:8: mqtt.brokers[0].protocol": "expected 5 or 3.1.1",
        f"{path}:10: limits.unknown_devices": 'reject or accept; did you mean "accept"?',
        f"{path}:11: batch.linger": "expected a number of seconds from 0 to 1",
        f"{path}:12: sinks": "none is enabled",
        f"{path}:14: snks": 'did you mean "sinks"?',
        "environment variable GREENLANG_IOT__RUNTIME__SHARDS: runtime.shards": "a whole number",
    }
    assert len(found) == len(expected)
    for start, words in expected.items():
        (problem,) = (p for p in found if p.startswith(start + ": "))
        assert words in problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mqtt: [1, 2\nx: 3", "not YAML"),
        ("- 1\n- 2", "a mapping of sections"),
        ("log: {level: info, level: debug}", "given twice, first in line 1"),
        ("mqtt: &a {x: *a}", "not YAML: an alias contains itself"),
        ("mqtt: {brokers: []}", "must not be empty"),
        ("mqtt: {brokers: [7]}", "expected a section with keys among name, host"),
        ("mqtt: 5", "expected a section"),
        ("instance: no spaces please", "of the form"),
        ("instance:", "nothing is set; expected a text"),
        ("sinks: {lake: {timeout: 0}}", "a number of seconds above 0"),
        ("mqtt: {brokers: [{tls: {key_file: k}}]}", "is set without cert_file"),
    ],
)
def test_one_mistake(write: Any, text: str, words: str) -> None:
    assert any(words in p for p in problems(write(text)))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MQTT__QOS__X", "has no parts"),
        ("MQTT__BROKERS__3__HOST", "use an index from 0 to 1"),
        ("MQTT__0", "mqtt is not a list"),
        ("MQTT__BROKERS__X", "numbered from 0"),
        ("MQTT__BROKRES__0__HOST", 'did you mean "brokers"?'),
        ("MQT__QOS", 'did you mean "mqtt"?'),
    ],
)
def test_environment_names_that_lead_nowhere(write: Any, name: str, words: str) -> None:
    path = write("mqtt: {brokers: [{host: a}]}")
    found = problems(path, {f"GREENLANG_IOT__{name}": "1"})
    assert any(words in p and f"GREENLANG_IOT__{name}" in p for p in found)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there are no settings .*config init"):
        load(tmp_path / "none.yaml")
    (tmp_path / "latin").write_bytes(b"instance: \xff")
    with pytest.raises(InputError, match="not UTF-8"):
        load(tmp_path / "latin")


def influx(**extra: str) -> dict[str, str]:
    base = {"GREENLANG_IOT__SINKS__INFLUXDB__ENABLED": "true"}
    return base | {f"GREENLANG_IOT__SINKS__INFLUXDB__{k}": v for k, v in extra.items()}


def token(loaded: Loaded) -> str:
    secret = loaded.settings.sinks.influxdb.token
    assert secret is not None
    return secret.get_secret_value()


def test_a_secret_file_is_read_without_its_newline_and_its_mode_is_watched(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("s3cr-et\n")
    file.chmod(0o600)
    loaded = load(None, influx(TOKEN_FILE=str(file)))
    assert token(loaded) == "s3cr-et"
    assert not any("chmod" in w for w in loaded.warnings)
    file.chmod(0o644)
    loaded = load(None, influx(TOKEN_FILE=str(file)))
    assert [w for w in loaded.warnings if "chmod 600" in w and "s3cr-et" not in w]


def test_a_secret_from_the_environment_beats_the_file_named_in_the_settings(
    write: Any, tmp_path: Path
) -> None:
    path = write(f"sinks: {{influxdb: {{enabled: true, token_file: {tmp_path / 'absent'}}}}}")
    assert token(load(path, influx(TOKEN="from-env"))) == "from-env"
    assert "cannot read" in only(path)


def test_two_secrets_of_the_same_source_contradict(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("x")
    found = only(None, influx(TOKEN="a", TOKEN_FILE=str(tmp_path / "t")))
    assert "both token and token_file are set" in found


def test_an_empty_secret_is_no_secret(tmp_path: Path) -> None:
    assert "needs a token" in only(None, influx(TOKEN=""))
    (tmp_path / "t").write_text("\n")
    assert "is empty" in only(None, influx(TOKEN_FILE=str(tmp_path / "t")))


def test_no_message_shows_a_secret(write: Any) -> None:
    path = write(
        "mqtt: {brokers: [{password: [hunter2], pasword: hunter2, port: x}]}\n"
        "sinks: {influxdb: {enabled: true, token: {a: hunter2}, url: 'http://u:hunter2@h'}}\n"
    )
    found = problems(path)
    assert len(found) >= 4
    assert not any("hunter2" in p for p in found)
    assert not any("hunter2" in p for p in problems(write("token: hunter2\n  bad: [")))
    good = write("mqtt: {brokers: [{password: hunter2}]}")
    loaded = load(good)
    assert "hunter2" not in repr(loaded)
    assert any("a secret stands in the settings file" in w for w in loaded.warnings)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"sinks.lake.policy": "best_effort"}, "none is required"),
        ({"sinks.lake.chunk_bytes": 100_000_000}, "must not be above queue_bytes"),
        ({"sinks.lake.backoff_initial": 9}, "must not be above backoff_max (4)"),
        ({"sinks.lake.max_bytes": 70_000}, "must not be above max_bytes"),
        ({"sinks.dead_letter.target": "kafka"}, "needs sinks.kafka.enabled"),
        ({"mqtt.topic": "greenlang/{org}/{site}/x{device}"}, "must hold {device} once"),
        ({"mqtt.topic": "$x/{org}/{site}/{device}"}, "begin with $"),
        ({"mqtt.topic": "#/{org}/{site}/{device}"}, "no wildcards"),
        ({"mqtt.brokers[0].host": "a..b"}, "is no host name or address"),
        ({"mqtt.brokers[0].host": "a" * 64 + ".example"}, "is no host name or address"),
        ({"mqtt.brokers[0].host": "broker.example "}, "is no host name or address"),
        ({"mqtt.brokers[0].host": ""}, "is no host name or address"),
        ({"batch.max_bytes": 65_536}, "must fit into batch.max_bytes"),
        ({"sinks.influxdb.enabled": True}, "needs a token"),
        ({"sinks.influxdb.url": "influx:8086"}, "must look like http://host:8086"),
        ({"sinks.influxdb.url": "http://a..b:8086"}, "must look like http://host:8086"),
        ({"sinks.influxdb.url": "http://[::1:8086"}, "must look like http://host:8086"),
        ({"sinks.influxdb.url": "http://influx:80860"}, "must look like http://host:8086"),
        ({"sinks.kafka.bootstrap_servers": "a..b:1"}, "'a..b:1' must be host:port"),
        ({"sinks.kafka.bootstrap_servers": "a:1,b"}, "'b' must be host:port"),
        ({"sinks.kafka.min_insync_replicas": 2}, "must not be above replication_factor"),
        ({"sinks.kafka.alerts_topic": "iot.readings"}, "the same topic as readings_topic"),
        ({"sinks.kafka.alerts_topic": "a/b"}, "1 to 249 letters"),
        ({"sinks.kafka.security_protocol": "SASL_SSL"}, "SASL_SSL needs it"),
        ({"sinks.kafka.tls": {}}, "does not use TLS"),
        ({"sinks.kafka.chunk_bytes": 2048}, "must not be above chunk_bytes"),
        ({"mqtt.brokers": [{}, {}]}, "names another broker already"),
        ({"mqtt.brokers": [{"protocol": "3.1.1", "password": "x"}]}, "without a username"),
    ],
)
def test_settings_that_contradict_each_other(overrides: dict[str, Any], words: str) -> None:
    first = next(iter(overrides))
    if first.startswith("sinks.kafka"):
        overrides = {"sinks.kafka.enabled": True} | overrides
    if first == "sinks.influxdb.url":
        overrides = {"sinks.influxdb.enabled": True, "sinks.influxdb.token": "x"} | overrides
    assert all(words in p for p in problems(None, None, overrides))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({}, "8883 is the port of MQTT over TLS"),
        ({"mqtt.brokers[0].port": 1883, "mqtt.brokers[0].tls": {}}, "1883 is the port"),
        ({"mqtt.brokers[0].tls.verify": False}, "any certificate is accepted"),
        ({"mqtt.brokers[0].tls.check_hostname": False}, "for any other host"),
        ({"mqtt.brokers[0].tls.ca_file": "nowhere/ca.crt"}, "there is no file nowhere/ca.crt"),
        ({"mqtt.brokers[0].host": "broker.example"}, "plain TCP"),
        ({"admin.host": "0.0.0.0"}, "only /healthz and /readyz"),
        ({"runtime.memory_bound": 1}, "the queues never fill"),
        ({"limits.max_payload_bytes": 300_000}, "the broker drops what is larger"),
    ],
)
def test_warnings(overrides: dict[str, Any], words: str) -> None:
    assert any(words in w for w in load(None, None, overrides).warnings)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"url": "http://hook.example/x"}, "notifiers[0].url: plain HTTP"),
        ({"url": "http://127.0.0.1/x", "tls": {}}, "the URL is not https"),
        ({"tls": {"verify": False}}, "tls.verify: any certificate is accepted"),
        ({"tls": {"check_hostname": False}}, "for any other host"),
        ({"tls": {"ca_file": "nowhere/ca.crt"}}, "there is no file nowhere/ca.crt"),
    ],
)
def test_a_notifier_is_looked_at_like_every_other_service(more: dict[str, Any], words: str) -> None:
    notifier = {"name": "x", "kind": "webhook", "url": "https://hook.example/x"} | more
    said = load(None, None, {"alerts.notifiers": [notifier]}).warnings
    assert any(words in warning for warning in said), said


def test_a_notifier_with_half_an_identity_is_a_mistake() -> None:
    tls = {"key_file": "k.pem"}
    notifier = {"name": "x", "kind": "webhook", "url": "https://hook.example/x", "tls": tls}
    with pytest.raises(InputError) as raised:
        load(None, None, {"alerts.notifiers": [notifier]})
    assert "set without cert_file" in raised.value.problems[0]


def test_a_private_key_that_everybody_may_read_is_said(tmp_path: Path) -> None:
    for name in ("open.key", "shut.key", "cert.pem"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o600 if name == "shut.key" else 0o644)
    cert = str(tmp_path / "cert.pem")
    for key, count in (("open.key", 2), ("shut.key", 0)):
        tls = {"cert_file": cert, "key_file": str(tmp_path / key)}
        said = load(None, None, {"mqtt.brokers[0].tls": tls, "admin.tls": tls}).warnings
        assert sum(f"{key} may be read by every user" in warning for warning in said) == count


def sections(kind: type[Section] = Section) -> list[type[Section]]:
    return [found for child in kind.__subclasses__() for found in (child, *sections(child))]


def bounds() -> list[tuple[type[Section], str, float]]:
    """Every lower bound that a field declares, with a value just below it."""
    return [
        (section, name, bound.gt if isinstance(bound, Gt) else bound.ge - 1)
        for section in sections()
        for name, field in section.model_fields.items()
        for bound in field.metadata
        if isinstance(bound, Ge | Gt)
    ]


@pytest.mark.parametrize(("section", "name", "value"), bounds())
def test_every_lower_bound_is_kept(section: type[Section], name: str, value: float) -> None:
    """One of the type (never negative) had stood in for that of the field."""
    with pytest.raises(ValidationError) as refused:
        section.model_validate({name: value})
    assert name in {error["loc"][0] for error in refused.value.errors()}


def test_every_size_and_time_has_a_lower_bound() -> None:
    for section in sections():
        for name, field in section.model_fields.items():
            if isinstance(field.json_schema_extra, dict) and "unit" in field.json_schema_extra:
                found = [bound for bound in field.metadata if isinstance(bound, Ge | Gt)]
                assert len(found) == 1, f"{section.__name__}.{name}"
