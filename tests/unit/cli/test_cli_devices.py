"""`greenlang-iot devices`, through the public command line."""

import asyncio
import csv
import gzip
import json
import os
import time
from pathlib import Path

import orjson
import pytest
from tests.fakes.mqtt_client import RawClient
from tests.fakes.payload_formats import metric, sparkplug
from typer.testing import CliRunner, Result

from greenlang_iot.cli.main import app
from greenlang_iot.devices.catalog import make_registry
from greenlang_iot.devices.registry import load
from greenlang_iot.model.errors import GatewayError, InputError
from greenlang_iot.simulate.broker import Broker

SHIPPED = Path(__file__).resolve().parents[3] / "devices" / "devices-registry.json"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_list_and_show() -> None:
    listed = run("devices", "list", "--devices-file", SHIPPED, "--site", "lab", "--json").stdout
    assert [json.loads(line)["id"] for line in listed.splitlines()] == [
        "flow-cooling",
        "air-lab",
        "cold-lab",
    ]
    shown = json.loads(
        run("devices", "show", "flow-cooling", "--devices-file", SHIPPED, "--json").stdout
    )
    assert shown["metrics"] == [
        {
            "metric": "flow",
            "unit": "m3/h",
            "range": [0.0, 120.0],
            "warn": [None, None],
            "max_step": 15.0,
            "interval": 60.0,
            "profile": "default",
            "enabled": True,
            "reference": None,
            "tolerance": None,
        }
    ]
    table = run("devices", "show", "boiler-2-a", "--devices-file", SHIPPED).stdout
    assert "1.2 to 6" in table
    assert max(map(len, table.splitlines())) <= 80
    with pytest.raises(InputError, match="did you mean"):
        run("devices", "show", "boiler-2-b", "--devices-file", SHIPPED)


def test_validate_names_every_mistake_with_its_line(tmp_path: Path) -> None:
    assert run("devices", "validate", SHIPPED).exit_code == 0
    assert run("devices", "validate", "--devices-file", SHIPPED).exit_code == 0
    broken = tmp_path / "r.json"
    broken.write_text(
        SHIPPED.read_text()
        .replace('"type": "weather"}', '"type": "wether"}', 1)
        .replace('"id": "air-lab"', '"id": "air lab"')
    )
    result = run("devices", "validate", broken, "--json")
    assert result.exit_code == 2
    mistakes = json.loads(result.stdout)["mistakes"]
    text = broken.read_text()
    lines = [text.count("\n", 0, text.index(word)) + 1 for word in ('"wether"', "air lab")]
    assert [m.split(":")[1] for m in mistakes] == [str(line) for line in lines]


def test_export_and_import_are_inverse(tmp_path: Path) -> None:
    table, back = tmp_path / "fleet.csv", tmp_path / "back.json"
    assert run("devices", "export", "--devices-file", SHIPPED, "--output", table).exit_code == 0
    assert run("devices", "export", SHIPPED).stdout == table.read_text()
    result = run("devices", "import", table, "--types", SHIPPED, "--output", back, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"written": 20, "bad": []}
    document = json.loads(back.read_text())
    shipped = json.loads(SHIPPED.read_text())
    assert document["devices"] == shipped["devices"]
    assert document["types"] == shipped["types"]
    assert load(back).n_series == load(SHIPPED).n_series
    for target, command in ((back, ("import", table)), (table, ("export",))):
        before = target.read_bytes()
        with pytest.raises(InputError, match="exists already"):
            run("devices", *command, "--output", target)
        assert target.read_bytes() == before


def test_a_reference_is_listed_and_goes_through_a_table(tmp_path: Path) -> None:
    registry, table, back = tmp_path / "r.json", tmp_path / "f.csv", tmp_path / "back.json"
    place = {"org": "o", "site": "s", "type": "t"}
    compared = {"x": {"reference": "lab", "tolerance": 0.25}}
    document = {
        "version": 1,
        "types": {"t": {"metrics": {"x": {"unit": "V"}}}},
        "devices": [{"id": "lab", **place}, {"id": "field", **place, "metrics": compared}],
    }
    registry.write_text(json.dumps(document))
    shown = run("devices", "show", "field", "--devices-file", registry)
    assert "lab ± 0.25" in shown.stdout
    assert "reference" not in run("devices", "show", "lab", "--devices-file", registry).stdout
    run("devices", "export", "--devices-file", registry, "--output", table)
    assert "field,o,s,t,lab,0.25" in table.read_text()
    run("devices", "import", table, "--types", registry, "--output", back)
    assert json.loads(back.read_text())["devices"] == document["devices"]


BAD = """id;org;site;type;power.warn;enabled
a;o;s;energy-meter;:180;
b c;o;s;energy-meter;;
a;o;s;energy-meter;;
d;o;s;energy-metre;;
e;o;s;energy-meter;180;
f;o;s;energy-meter;;maybe
g;o;s;energy-meter
h;;s;energy-meter;;
i;o;s;energy-meter;9999:;
j;o;s;gas-meter;1:2;
k;o;s;gas-meter;;no
"""


def test_every_bad_row_is_named_with_its_line(tmp_path: Path) -> None:
    source, output = tmp_path / "f.csv", tmp_path / "f.json"
    source.write_text("\ufeff" + BAD)
    result = run("devices", "import", source, "--types", SHIPPED, "--output", output, "--json")
    assert result.exit_code == 2
    assert not output.exists()
    bad = json.loads(result.stdout)["bad"]
    assert [int(b.removeprefix(f"{source}:").split(":")[0]) for b in bad] == [*range(3, 12)]
    said = "\n".join(bad)
    for words in (
        "the device in line 2",
        'did you mean "energy-meter"?',
        "180' is no range",
        "'maybe' must be true or false",
        "4 cells where the first line names 6 columns",
        "org is missing",
        "lies outside the valid range",
        "has no such metric",
    ):
        assert words in said
    result = run("devices", "import", source, "--types", SHIPPED, "--output", output, "--skip-bad")
    assert result.exit_code == 1
    assert [d["id"] for d in json.loads(output.read_text())["devices"]] == ["a", "k"]


def test_a_table_loses_no_type_of_the_registry_that_it_goes_back_to(tmp_path: Path) -> None:
    """Nor does the mark that some editors write at the start of a file."""
    registry, fleet, made = tmp_path / "r.json", tmp_path / "f.csv", tmp_path / "new.json"
    registry.write_bytes(b"\xef\xbb\xbf" + SHIPPED.read_bytes())
    types = json.loads(SHIPPED.read_bytes())["types"]
    fleet.write_text("id,org,site,type\na,o,s,energy-meter\n")
    assert run("devices", "validate", registry).exit_code == 0
    result = run("devices", "import", fleet, "--types", registry, "--output", made)
    assert result.exit_code == 0
    assert json.loads(made.read_text())["types"] == types


def test_a_number_beyond_64_bits_goes_through_a_table(tmp_path: Path) -> None:
    fleet, made = tmp_path / "fleet.csv", tmp_path / "fleet.json"
    fleet.write_text("id,org,site,type,energy.range\na,o,s,energy-meter,-1e19:1e20\n")
    result = run("devices", "import", fleet, "--types", SHIPPED, "--output", made)
    assert result.exit_code == 0
    (device,) = json.loads(made.read_text())["devices"]
    assert device["metrics"] == {"energy": {"range": [-1e19, 1e20]}}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("id,org,site", "missing: type"),
        ("id,org,site,type,co2.wran", 'did you mean "warn"'),
        ("id,org,site,type,descripton", 'did you mean "description"'),
        ("id,org,site,type,id", "twice"),
        ("", "missing: id"),
    ],
)
def test_a_header_that_is_not_usable(tmp_path: Path, header: str, words: str) -> None:
    source = tmp_path / "f.csv"
    source.write_text(header + "\n")
    with pytest.raises(InputError, match=words):
        run("devices", "import", source, "--types", SHIPPED, "--output", tmp_path / "f.json")


def test_a_hundred_thousand_rows_with_ten_bad_ones(tmp_path: Path) -> None:
    devices = make_registry(100_000)["devices"]
    wrong = {2 + i * 9_999: f"bad id {i}" for i in range(10)}  # line → id
    source = tmp_path / "big.csv"
    with source.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "org", "site", "type"])
        for line, device in enumerate(devices, 2):
            writer.writerow([wrong.get(line, device["id"]), "o", device["site"], device["type"]])
    began = time.process_time()
    result = run(
        *("devices", "import", source, "--types", SHIPPED),
        *("--output", tmp_path / "big.json", "--skip-bad", "--json"),
    )
    assert time.process_time() - began < 20
    assert result.exit_code == 1
    done = json.loads(result.stdout)
    assert done["written"] == 99_990
    assert [b.split(":")[1] for b in done["bad"]] == [str(line) for line in wrong]
    assert load(tmp_path / "big.json").n_devices == 99_990


async def discover(tmp_path: Path, port: int, *more: object, formats: str = "") -> Result:
    config = tmp_path / "c.yaml"
    config.write_text(f"mqtt:\n  brokers:\n    - {{host: 127.0.0.1, port: {port}}}\n{formats}")
    arguments = ("devices", "discover", "--config", config, "--output", tmp_path / "p.json", *more)
    return await asyncio.to_thread(run, *arguments)


async def test_discover_proposes_units_and_intervals(tmp_path: Path) -> None:
    broker = Broker()
    await broker.start()
    try:
        listening = asyncio.ensure_future(
            discover(tmp_path, broker.port, "--for", 2, "--known", SHIPPED, "--json")
        )
        client = await RawClient.connected(broker.port, "devices")
        at = 1_760_000_000
        while not listening.done():
            at += 60
            air = {"ts": at, "metric": "co2", "value": 600, "unit": "ppm"}
            meter = [{"ts": at * 1000, "values": {"temperature": 20.5, "odd": 1}}]
            for topic, body in (
                ("greenlang/o/s/air-1/telemetry", air),
                ("greenlang/o/s/air-2/telemetry", air),
                ("greenlang/o/t/m-1/telemetry", meter),
                ("greenlang/acme/plant-a/em-main-a/telemetry", meter),
                ("greenlang/o/t/bad name/telemetry", meter),
                ("greenlang/o/t/m-2/telemetry", {"hello": "world"}),
            ):
                await client.publish(topic, orjson.dumps(body))
            await asyncio.sleep(0.05)
        result = await listening
    finally:
        await broker.stop()
    assert result.exit_code == 0
    document = json.loads((tmp_path / "p.json").read_text())
    added = document["devices"][20:]
    assert added == [
        {"id": "air-1", "org": "o", "site": "s", "type": "co2"},
        {"id": "air-2", "org": "o", "site": "s", "type": "co2"},
        {"id": "m-1", "org": "o", "site": "t", "type": "odd-temperature"},
    ]
    assert document["types"]["co2"]["metrics"] == {"co2": {"interval": 60, "unit": "ppm"}}
    assert document["types"]["odd-temperature"]["metrics"] == {
        "temperature": {"interval": 60, "unit": "Cel"},
        "odd": {"interval": 60, "unit": "1"},
    }
    assert load(tmp_path / "p.json").n_devices == 23
    said = json.loads(result.stdout)
    assert "m-1: odd came without a unit; 1 is a guess" in said["notes"]
    assert said["strange"] > 0


async def test_discover_hears_other_formats_and_what_is_compressed(tmp_path: Path) -> None:
    broker = Broker()
    await broker.start()
    formats = """  formats:
    - {topic: "lines/{site}/{device}", format: line-protocol, metrics: {p: power, s: null}}
    - {topic: "spBv1.0/{org}/{type}/{site}/{device}", format: sparkplug-b}
"""
    try:
        listening = asyncio.ensure_future(
            discover(tmp_path, broker.port, "--for", 1, formats=formats)
        )
        client = await RawClient.connected(broker.port, "devices")
        json_text = b'{"ts":1714566896,"metric":"co2","value":600,"unit":"ppm"}'
        while not listening.done():
            for topic, body in (
                ("greenlang/o/s/air-1/telemetry", gzip.compress(json_text)),
                ("greenlang/o/s/air-2/telemetry", gzip.compress(json_text)[:-2]),
                ("lines/north/m-1", b"meter p=3.5,s=1 1714566896000000000"),
                ("spBv1.0/o/DBIRTH/s/kiln", sparkplug(metric("temperature", 900.0), seq=1)),
                ("spBv1.0/o/XBIRTH/s/kiln", b""),
            ):
                await client.publish(topic, body)
            await asyncio.sleep(0.05)
        result = await listening
    finally:
        await broker.stop()
    assert result.exit_code == 0
    document = json.loads((tmp_path / "p.json").read_text())
    assert [(d["id"], d["org"], d["site"]) for d in document["devices"]] == [
        ("air-1", "o", "s"),
        ("kiln", "o", "s"),
        ("m-1", "unnamed", "north"),
    ]
    assert [list(body["metrics"]) for body in document["types"].values()] == [
        ["co2"],
        ["temperature"],
        ["power"],
    ]


async def test_discover_says_when_nothing_comes_and_never_writes_over(tmp_path: Path) -> None:
    broker = Broker()
    await broker.start()
    try:
        with pytest.raises(GatewayError, match="no readings were heard"):
            await discover(tmp_path, broker.port, "--for", 0.2)
    finally:
        await broker.stop()
    with pytest.raises(GatewayError, match="cannot listen"):
        await discover(tmp_path, broker.port, "--for", 0.2)
    (tmp_path / "p.json").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        await discover(tmp_path, broker.port)
    assert (tmp_path / "p.json").read_text() == "mine"


def test_colours_only_on_a_terminal_and_not_with_no_color() -> None:
    """A process of its own: what leaves it when stdout is a pipe."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "greenlang_iot", "devices", "list", "--devices-file", SHIPPED]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "NO_COLOR": "1"}
    )
    assert "em-main-a" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stderr == ""
