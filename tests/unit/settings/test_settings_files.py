"""Several settings files, merged in their order; the profiles that the project ships."""

from pathlib import Path

import pytest

from greenlang_iot.model.errors import InputError
from greenlang_iot.settings.explain import DEFAULT, effective
from greenlang_iot.settings.load import load

CONFIG = Path(__file__).resolve().parents[3] / "config"
TOKEN = {"GREENLANG_IOT__SINKS__INFLUXDB__TOKEN": "a-token"}


def files(folder: Path, *texts: str) -> list[Path]:
    paths = [folder / f"{name}.yaml" for name, _ in zip("abc", texts, strict=False)]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


def test_the_later_file_wins_key_by_key_and_lists_as_a_whole(tmp_path: Path) -> None:
    first, second = files(
        tmp_path,
        "runtime: {shards: 3, drain_timeout: 7}\nmqtt:\n  qos: 0\n  brokers:\n"
        "    - {name: a, host: h1, keep_alive: 99}\n    - {name: b, host: h2}\n",
        "runtime:\n  shards: 4\nmqtt:\n  brokers:\n    - host: h3\n",
    )
    settings = load([first, second]).settings
    assert (settings.runtime.shards, settings.runtime.drain_timeout) == (4, 7)
    assert settings.mqtt.qos == 0
    assert [(b.name, b.host, b.keep_alive) for b in settings.mqtt.brokers] == [
        ("default", "h3", 30)
    ]
    assert load([second, first]).settings.runtime.shards == 3


def test_every_value_says_which_file_it_is_from(tmp_path: Path) -> None:
    first, second = files(
        tmp_path,
        "runtime:\n  shards: 3\n  drain_timeout: 7\nmqtt:\n  brokers:\n    - {host: h1, port: 9}\n",
        "\nruntime:\n  shards: 4\nmqtt:\n  brokers:\n    - host: h3\n",
    )
    environ = {"GREENLANG_IOT__RUNTIME__RESTART_BUDGET": "1"}
    found = {row.name: row.source for row in effective(load([first, second], environ))}
    assert found["runtime.shards"] == f"{second}:3"
    assert found["runtime.drain_timeout"] == f"{first}:3"
    assert found["mqtt.brokers[0].host"] == f"{second}:6"
    assert found["mqtt.brokers[0].port"] == DEFAULT
    assert found["runtime.restart_budget"].startswith("environment variable")


def test_mistakes_of_all_files_at_once_each_with_its_file(tmp_path: Path) -> None:
    first, second = files(
        tmp_path,
        "runtime:\n  shards: many\nspool:\n  max_bytes: -1\n",
        "mqtt:\n  qos: 7\n  topik: x\nspool: {max_bytes: 1000000000}\n",
    )
    with pytest.raises(InputError) as caught:
        load([first, second])
    assert str(caught.value) == f"{first}, {second}: 3 mistakes"
    places = {problem.split(": ")[0] for problem in caught.value.problems}
    assert places == {f"{first}:2", f"{second}:2", f"{second}:3"}


@pytest.mark.parametrize("text", ["a: [1\n", "- a list\n"])
def test_a_file_that_is_no_yaml_is_the_only_thing_said(tmp_path: Path, text: str) -> None:
    first, second, third = files(tmp_path, "mqtt: {}\n", text, "a: ]\n")
    with pytest.raises(InputError) as caught:
        load([first, second, third])
    (problem,) = caught.value.problems
    assert problem.startswith(f"{second}:")


def test_a_secret_and_its_file_in_two_files_are_one_too_many(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t0ken\n")
    (tmp_path / "token").chmod(0o600)
    first, second = files(
        tmp_path,
        "sinks: {influxdb: {enabled: true, token: abc}}\n",
        f"sinks:\n  influxdb:\n    token_file: {tmp_path / 'token'}\n",
    )
    with pytest.raises(InputError) as caught:
        load([first, second])
    assert "both token and token_file are set" in caught.value.problems[0]
    assert "abc" not in caught.value.problems[0]


@pytest.mark.parametrize("profile", ["local", "production"])
def test_a_profile_says_only_what_differs_from_the_defaults(profile: str) -> None:
    loaded = load(CONFIG / f"{profile}.yaml", TOKEN)
    defaults = {row.name: row.value for row in effective(load(None))}
    said = {
        row.name: row.value
        for row in effective(loaded)
        if row.source.startswith(str(CONFIG)) and row.name != "config_version"
    }
    told_for_clarity = {"mqtt.brokers[0].host", "sinks.lake.enabled"}
    same = {n for n, value in said.items() if defaults.get(n) == value} - told_for_clarity
    assert same == set()
    assert len(said) >= 8


def test_the_profiles_do_what_they_are_for() -> None:
    local = load(CONFIG / "local.yaml")
    assert local.warnings == ()
    assert local.settings.sinks.lake.enabled
    production = load(CONFIG / "production.yaml", TOKEN).settings
    assert not production.sinks.lake.enabled
    assert (
        production.sinks.kafka.replication_factor,
        production.sinks.kafka.min_insync_replicas,
    ) == (3, 2)
    assert production.data_dir.is_absolute()
