"""compose.yaml without an engine: the specification's schema, and that all its parts agree."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jsonschema
import pytest
import typer.main
import yaml
from cryptography import x509
from typer.testing import CliRunner

from greenlang_iot.cli.main import app
from greenlang_iot.devices.registry import load as load_registry
from greenlang_iot.observe.access import ADMIN_TOKEN, READ_TOKEN
from greenlang_iot.settings.load import Loaded, load

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "compose.yaml").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
each_service = pytest.mark.parametrize("name", SERVICES)


def interpolated(text: str) -> str:
    """With every variable at its default."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


DEFAULT: dict[str, dict[str, Any]] = yaml.safe_load(interpolated(TEXT))["services"]
TOKEN = "/var/lib/greenlang-iot/influxdb-token"
"""The gateway's own token for InfluxDB, which setup makes."""


def mounts(name: str) -> dict[str, str]:
    """Path in the container → path in the repository or name of a volume."""
    pairs = (text.split(":") for text in SERVICES[name].get("volumes", ()))
    return {target: source for source, target, *_ in pairs}


def secrets(name: str) -> dict[str, str]:
    """Path in the container → name of the secret."""
    found = {}
    for item in SERVICES[name].get("secrets", ()):
        item = item if isinstance(item, dict) else {"source": item}
        found[item.get("target", f"/run/secrets/{item['source']}")] = item["source"]
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make compose-secrets` makes."""
    folder = tmp_path_factory.mktemp("compose") / "secrets"
    script = str(ROOT / "config" / "compose" / "make_secrets.py")
    for _ in range(2):  # the second run leaves all as it is
        before = contents(folder)
        subprocess.run([sys.executable, script, str(folder)], check=True, timeout=60)
        assert before in ({}, contents(folder))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()}


def at_home(settings: str, made: Path) -> str:
    """Settings of the container, with its files of secrets where they were made."""
    return settings.replace("/run/secrets", str(made)).replace(TOKEN, str(made / "influxdb-token"))


@pytest.fixture(scope="module")
def loaded(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """The gateway's settings as in its container, its files of secrets where they were made."""
    folder = tmp_path_factory.mktemp("settings")
    files = []
    for option in DEFAULT["gateway"]["command"]:
        if option.startswith("--config="):
            text = (ROOT / option.removeprefix("--config=")).read_text()
            files.append(folder / Path(option).name)
            files[-1].write_text(at_home(text, made))
    environ = {key: str(value) for key, value in DEFAULT["gateway"]["environment"].items()}
    return load(files, environ)


# ---- the file itself ---------------------------------------------------------------------------------


def test_it_follows_the_compose_specification() -> None:
    """The schema comes with the package check-jsonschema."""
    file = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    schema = json.loads(file.read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    wrong = COMPOSE | {"services": {"gateway": {"imagee": "x"}}}
    assert [error.absolute_path[-1] for error in validator.iter_errors(wrong)] == ["gateway"]


@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode != 0,
    reason="no `docker compose` here",
)
def test_docker_compose_reads_it() -> None:
    done = subprocess.run(
        ["docker", "compose", "config", "--quiet"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@each_service
def test_every_container_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert "privileged" not in service
    assert service["ulimits"]["core"] == 0  # it would hold the secrets
    user = service["user"].split(":")[0]
    assert int(user) > 0
    if name not in ("setup", "gateway"):  # the one ends by itself, the other's is in the image
        assert service["healthcheck"]["test"][0] == "CMD"


@each_service
def test_every_image_has_a_version(name: str) -> None:
    tag = DEFAULT[name]["image"].rpartition(":")[2]
    assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag)


@each_service
def test_no_secret_stands_in_the_environment(name: str) -> None:
    for key, value in SERVICES[name].get("environment", {}).items():
        if re.search(r"PASSWORD|TOKEN|SECRET", key):
            assert key.endswith("_FILE")
            assert value in secrets(name)


@each_service
def test_what_is_mounted_is_there_and_read_only(name: str) -> None:
    for text in SERVICES[name].get("volumes", ()):
        source, _, *mode = text.split(":")
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]
    assert set(secrets(name).values()) <= set(COMPOSE["secrets"])


def test_every_volume_and_every_secret_is_used() -> None:
    assert {s for name in SERVICES for s in mounts(name).values() if s[0] != "."} == set(
        COMPOSE["volumes"]
    )
    assert {s for name in SERVICES for s in secrets(name).values()} == set(COMPOSE["secrets"])


def test_the_secrets_that_are_made_are_those_that_are_mounted(made: Path) -> None:
    for name, body in COMPOSE["secrets"].items():
        assert body["file"] == f"secrets/{name}"
        assert (made / name).read_text().strip()
    assert made.stat().st_mode & 0o777 == 0o700
    assert "secrets/" in (ROOT / ".gitignore").read_text().split()


def test_a_device_gets_a_login_and_the_others_keep_theirs(tmp_path: Path) -> None:
    script = str(ROOT / "config" / "compose" / "make_secrets.py")
    subprocess.run([sys.executable, script, str(tmp_path / "s")], check=True, timeout=60)
    before = (tmp_path / "s" / "mosquitto-passwd").read_text()
    inode = (tmp_path / "s" / "mosquitto-passwd").stat().st_ino
    command = [sys.executable, script, str(tmp_path / "s"), "--device", "em-main-a"]
    subprocess.run(command, check=True, timeout=60)
    after = (tmp_path / "s" / "mosquitto-passwd").read_text()
    assert after.startswith(before)
    assert after.removeprefix(before).startswith("em-main-a:$7$101$")
    assert (tmp_path / "s" / "mosquitto-passwd").stat().st_ino == inode  # it is mounted
    assert len((tmp_path / "s" / "mqtt-password-em-main-a").read_text()) > 32


def test_the_example_of_the_environment_holds_every_variable_at_its_default() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", TEXT))
    assert example == used


def test_whom_a_container_waits_for_can_be_healthy() -> None:
    for service in SERVICES.values():
        for other, wanted in service.get("depends_on", {}).items():
            if wanted["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]


# ---- the gateway and its neighbours ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gateway", "setup"])
def test_the_command_line_is_understood_where_it_runs(name: str) -> None:
    words = DEFAULT[name]["command"]
    command: Any = typer.main.get_command(app)
    context = command.commands[words[0]].make_context(words[0], list(words[1:]))
    folder = re.findall(r"^WORKDIR (.*)$", (ROOT / "Dockerfile").read_text(), re.M)[-1]
    for file in [*context.params["config"], Path(context.params.get("devices_file", "config"))]:
        top = f"{folder}/{file.parts[0]}"
        assert mounts(name)[top] == f"./{file.parts[0]}"
        assert (ROOT / file).exists()


def test_its_settings_are_accepted_and_warn_of_nothing_unknown(loaded: Loaded) -> None:
    settings = loaded.settings
    assert {
        name for name in ("influxdb", "kafka", "lake") if getattr(settings.sinks, name).enabled
    } == {
        "influxdb",
        "kafka",
    }
    expected = ("is open to group or others", "may be read by every user", "plain HTTP")
    for warning in loaded.warnings:
        assert any(part in warning for part in expected), warning


def test_config_check_accepts_the_files_as_they_are(made: Path, tmp_path: Path) -> None:
    """Through the command, as the container starts it, but for the place of its secrets."""
    site = tmp_path / "gateway.yaml"
    shipped = (ROOT / "config" / "compose" / "gateway.yaml").read_text()
    site.write_text(at_home(shipped, made))
    arguments = ["config", "check", "--config", str(ROOT / "config" / "production.yaml")]
    registry = str(ROOT / "devices" / "devices-registry.json")
    result = CliRunner().invoke(
        app, [*arguments, "--config", str(site), "--devices-file", registry]
    )
    assert result.exit_code == 0, result.output


def test_its_secrets_are_mounted(loaded: Loaded, made: Path) -> None:
    broker = loaded.settings.mqtt.brokers[0]
    assert broker.tls is not None
    admin = loaded.settings.admin.tls
    assert admin is not None
    files = (broker.password_file, broker.tls.ca_file)
    for path in (*files, admin.cert_file, admin.key_file):
        assert path is not None
        assert f"/run/secrets/{path.relative_to(made)}" in secrets("gateway")
    data_dir = str(loaded.settings.data_dir)
    assert mounts("gateway")[data_dir] == "gateway-data"
    for token in (ADMIN_TOKEN, READ_TOKEN):
        assert secrets("gateway")[f"{data_dir}/{token}"] == token


def test_the_token_that_may_do_everything_is_with_setup_alone() -> None:
    """The gateway's own, which may write, is made by setup in the volume that they share."""
    everything = DEFAULT["setup"]["environment"]["GREENLANG_IOT__SINKS__INFLUXDB__TOKEN_FILE"]
    assert secrets("setup")[everything] == "influxdb-token"
    assert "influxdb-token" not in secrets("gateway").values()
    assert f"--influxdb-token-out={TOKEN}" in DEFAULT["setup"]["command"]
    site = yaml.safe_load((ROOT / "config" / "compose" / "gateway.yaml").read_text())
    assert site["sinks"]["influxdb"]["token_file"] == TOKEN
    for name in ("setup", "gateway"):
        assert mounts(name)[str(Path(TOKEN).parent)] == "gateway-data"


def names_of(certificate: Path) -> list[str]:
    read = x509.load_pem_x509_certificate(certificate.read_bytes())
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


def test_broker_and_certificate(loaded: Loaded, made: Path) -> None:
    broker = loaded.settings.mqtt.brokers[0]
    assert broker.host in SERVICES
    assert broker.host in names_of(made / "mosquitto.crt")
    logins = [line.split(":")[0] for line in (made / "mosquitto-passwd").read_text().splitlines()]
    assert broker.username in logins
    acl = (ROOT / "config" / "mosquitto" / "acl").read_text()
    assert logins == re.findall(r"^user (\w+)$", acl, re.M)


def test_mosquitto_finds_its_files_and_listens_where_it_is_published(loaded: Loaded) -> None:
    text = (ROOT / "config" / "mosquitto" / "mosquitto.conf").read_text()
    said = dict(re.findall(r"^(\w+) (\S+)$", text, re.M))
    inside = mounts("mosquitto") | secrets("mosquitto")
    for key in ("password_file", "acl_file", "cafile", "certfile", "keyfile"):
        assert said[key] in inside
    volume = said["persistence_location"].rstrip("/")
    assert inside[volume] == "mosquitto-data"
    assert f"install -d -o mosquitto -g mosquitto -m 0700 {volume}" in str(
        SERVICES["mosquitto"]["build"]
    )
    assert DEFAULT["mosquitto"]["ports"] == [f"127.0.0.1:8883:{said['listener']}"]
    assert loaded.settings.mqtt.brokers[0].port == int(said["listener"])


def test_influxdb_is_made_as_the_gateway_wants_it(loaded: Loaded) -> None:
    influxdb = loaded.settings.sinks.influxdb
    url = urlsplit(influxdb.url)
    made = SERVICES["influxdb"]["environment"]
    assert url.hostname in SERVICES
    assert DEFAULT["influxdb"]["ports"][0].endswith(f":{url.port}")
    assert influxdb.org == made["DOCKER_INFLUXDB_INIT_ORG"]
    assert influxdb.bucket == made["DOCKER_INFLUXDB_INIT_BUCKET"]
    assert made["DOCKER_INFLUXDB_INIT_RETENTION"] == f"{influxdb.retention / 86_400:g}d"
    assert secrets("influxdb")[made["DOCKER_INFLUXDB_INIT_ADMIN_TOKEN_FILE"]] == "influxdb-token"


def test_kafka_is_where_the_gateway_looks_for_it(loaded: Loaded) -> None:
    made = SERVICES["kafka"]["environment"]
    listeners = dict(item.split("://") for item in made["KAFKA_ADVERTISED_LISTENERS"].split(","))
    kafka = loaded.settings.sinks.kafka
    assert kafka.bootstrap_servers == listeners[kafka.security_protocol]
    assert kafka.bootstrap_servers.split(":")[0] in SERVICES
    assert made["KAFKA_LOG_DIRS"] in mounts("kafka")
    assert kafka.replication_factor == 1


def test_prometheus_and_grafana_find_what_they_show(loaded: Loaded, made: Path) -> None:
    file = next(o for o in DEFAULT["prometheus"]["command"] if o.startswith("--config.file="))
    inside = file.removeprefix("--config.file=/etc/prometheus/")
    folder = ROOT / mounts("prometheus")["/etc/prometheus"]
    scraped = yaml.safe_load((folder / inside).read_text())
    (job,) = scraped["scrape_configs"]
    assert job["static_configs"][0]["targets"] == [f"gateway:{loaded.settings.admin.port}"]
    inside = secrets("prometheus")
    assert inside[job["authorization"]["credentials_file"]] == READ_TOKEN
    assert inside[job["tls_config"]["ca_file"]] == "ca.crt"
    assert job["scheme"] == "https"
    assert "gateway" in names_of(made / "gateway.crt")
    for rules in scraped["rule_files"]:
        assert (folder / rules).is_file()
    provisioning = ROOT / mounts("grafana")["/etc/grafana/provisioning"]
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())
    port = DEFAULT["prometheus"]["ports"][0].split(":")[-1]
    assert source["datasources"][0]["url"] == f"http://prometheus:{port}"
    boards = yaml.safe_load((provisioning / "dashboards" / "greenlang-iot.yaml").read_text())
    (path,) = {p["options"]["path"] for p in boards["providers"]}
    assert list((ROOT / mounts("grafana")[path]).glob("*.json"))


def test_it_is_not_killed_before_it_has_drained(loaded: Loaded) -> None:
    grace = int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))
    assert grace >= loaded.settings.runtime.drain_timeout + 10


def test_more_than_one_device_is_registered() -> None:
    words = shlex.split(" ".join(DEFAULT["gateway"]["command"]))
    file = next(w for w in words if w.startswith("--devices-file=")).partition("=")[2]
    assert load_registry(ROOT / file).n_devices > 1
