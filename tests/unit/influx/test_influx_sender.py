"""The sender against the stand-in: nothing lost, the right lines refused, failures said as they are."""

import asyncio
import base64
import contextlib
import ssl
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.fakes.influxdb2 import Fault, InfluxDB2, busy

from greenlang_iot.model.errors import SinkError
from greenlang_iot.settings.model import InfluxSettings, TlsSettings
from greenlang_iot.sinks import influx_http
from greenlang_iot.sinks.influx import InfluxSender

T0 = 1_795_000_000_000_000_000


@pytest.fixture
async def server():
    async with InfluxDB2() as running:
        yield running


def configured(server: InfluxDB2, **changes: object) -> InfluxSettings:
    base = {"url": server.url, "token": SecretStr(server.token), "timeout": 5.0}
    return InfluxSettings(**{**base, **changes})


@pytest.fixture
async def sender(server: InfluxDB2):
    made = InfluxSender(configured(server))
    await made.open()
    yield made
    await made.close()


def good(i: int) -> bytes:
    return f"telemetry,device=d{i} temperature={i}.5,humidity={i} {T0 + i}".encode()


def body(lines: list[bytes]) -> memoryview:
    """As a large chunk comes from the encoder; the spool's bodies are bytes."""
    return memoryview(b"".join(line + b"\n" for line in lines))


def stored(server: InfluxDB2) -> set[str]:
    return {point["tags"]["device"] for point in server.points()}


async def test_a_body_is_written_with_ns_time_stamps(
    server: InfluxDB2, sender: InfluxSender
) -> None:
    outcome = await sender.send(memoryview(body([good(1), good(2)])), 4)
    assert (outcome.delivered, outcome.refused) == (4, [])
    assert server.points()[0] == {
        "measurement": "telemetry",
        "tags": {"device": "d1"},
        "fields": {"temperature": 1.5, "humidity": 1.0},
        "time": T0 + 1,
    }


async def test_names_with_any_characters_reach_influxdb_as_they_are() -> None:
    org, bucket = "Werk Süd/2", "a+b & c=d%20?#/é"
    async with InfluxDB2(org=org, buckets=(bucket,)) as server:
        sender = InfluxSender(configured(server, org=org, bucket=bucket))
        await sender.open()
        outcome = await sender.send(bytes(body([good(1)])), 2)
        await sender.close()
        assert (outcome.delivered, outcome.refused) == (2, [])
        assert len(server.buckets[bucket].rows) == 1


async def test_gzip(server: InfluxDB2) -> None:
    sender = InfluxSender(configured(server, gzip=True))
    await sender.open()
    await sender.send(body([good(i) for i in range(5_000)]), 10_000)
    await sender.close()
    assert server.encodings == ["gzip"]
    assert len(server.points()) == 5_000
    assert server.writes[0][1] < 100_000


async def test_bad_lines_are_refused_and_all_others_written(
    server: InfluxDB2, sender: InfluxSender
) -> None:
    lines = [good(i) for i in range(100)]
    lines[7] = b"telemetry,device=d7 temperature=x,temperature_score=0.999900,humidity=2 5"
    lines[50] = b"telemetry,device= temperature=1 5"
    outcome = await sender.send(body(lines), 200)
    assert {item.body: item.readings for item in outcome.refused} == {lines[7]: 2, lines[50]: 1}
    assert all(item.answer.startswith("unable to parse: ") for item in outcome.refused)
    assert outcome.delivered == 197
    assert len(stored(server)) == 98
    assert [status for status, _ in server.writes] == [400, 204]


@pytest.mark.parametrize("bad", [[0], [99], [3, 4, 50], list(range(100))])
async def test_type_conflicts_are_found_by_sending_parts_again(
    server: InfluxDB2, sender: InfluxSender, bad: list[int]
) -> None:
    await sender.send(b"telemetry,device=x odd=1i 1\n", 1)
    lines = [good(i) for i in range(100)]
    for i in bad:
        lines[i] = f"telemetry,device=d{i} odd=1.5 {T0}".encode()
    outcome = await sender.send(body(lines), 200 - len(bad))
    assert sorted(item.body for item in outcome.refused) == sorted(lines[i] for i in bad)
    assert "already exists as type integer" in outcome.refused[0].answer
    assert stored(server) == {"x"} | {f"d{i}" for i in range(100) if i not in bad}
    assert len(server.writes) <= 4


async def test_points_past_retention_are_refused_at_once(
    server: InfluxDB2, sender: InfluxSender
) -> None:
    server.buckets["iot_data"].retention = 3600
    now = 4_000_000_000 * 10**9  # in the future: certainly kept
    lines = [f"telemetry,device=d{i} v=1 {now if i % 2 else i}".encode() for i in range(1_000)]
    outcome = await sender.send(body(lines), 1_000)
    assert (outcome.delivered, len(outcome.refused)) == (500, 500)
    assert stored(server) == {f"d{i}" for i in range(1, 1_000, 2)}
    assert [status for status, _ in server.writes] == [422, 204]


async def test_every_kind_of_bad_line_in_one_body(server: InfluxDB2, sender: InfluxSender) -> None:
    server.buckets["iot_data"].retention = 3600
    now = 4_000_000_000 * 10**9
    await sender.send(f"telemetry,device=x odd=1i {now}\n".encode(), 1)
    lines = [f"telemetry,device=d{i} v=1 {now}".encode() for i in range(60)]
    lines[5] = f"telemetry,device=d5 odd=2 {now}".encode()
    lines[6] = b"telemetry,device=d6 v=1 17"
    lines[40] = b"telemetry,device=d40 v= 17"
    lines[41] = f"telemetry,device=d41 time=1 {now}".encode()
    outcome = await sender.send(body(lines), 60)
    assert sorted(item.body for item in outcome.refused) == sorted(lines[i] for i in (5, 6, 40, 41))
    assert outcome.delivered == 56
    assert stored(server) == {"x"} | {f"d{i}" for i in range(60) if i not in (5, 6, 40, 41)}


async def test_the_search_is_bounded_and_loses_no_line(server: InfluxDB2) -> None:
    sender = InfluxSender(configured(server, max_refusals=3))
    await sender.open()
    for field in ("a", "b"):
        await sender.send(f"telemetry,device=x {field}=1i 1\n".encode(), 1)
    lines = [good(i) for i in range(64)]
    for i in range(0, 64, 8):
        lines[i] = f"telemetry,device=d{i} {'ab'[i // 8 % 2]}=1.5,c={i} {T0}".encode()
        lines[i + 1] = f"telemetry,device=d{i + 1} {'ab'[i // 8 % 2]}=1i {T0}".encode()
    server.writes.clear()
    outcome = await sender.send(body(lines), 128)
    await sender.close()
    refused = {item.body for item in outcome.refused}
    assert {lines[i] for i in range(0, 64, 8)} <= refused
    in_database = {p["tags"]["device"] for p in server.points()}
    for i, line in enumerate(lines):
        assert line in refused or f"d{i}" in in_database
    assert any("undecided after 3 refused parts" in item.answer for item in outcome.refused)
    assert len(server.writes) <= 8


async def test_413_splits_and_is_remembered(server: InfluxDB2, sender: InfluxSender) -> None:
    server.max_body = 2_000
    lines = [good(i) for i in range(200)]
    assert (await sender.send(body(lines), 400)).delivered == 400
    assert len(server.points()) == 200
    server.writes.clear()
    await sender.send(body(lines), 400)
    assert {status for status, _ in server.writes} == {204}


async def test_a_single_line_that_is_too_large_is_refused(
    server: InfluxDB2, sender: InfluxSender
) -> None:
    server.max_body = 500
    long = b"telemetry,device=" + b"x" * 600 + b" v=1 5"
    outcome = await sender.send(body([good(1), long, good(2)]), 5)
    assert [item.body for item in outcome.refused] == [long]
    assert outcome.delivered == 4
    assert stored(server) == {"d1", "d2"}


@pytest.mark.parametrize("given", ["3", "Fri, 31 Dec 2100 00:00:00 GMT"])
async def test_busy_answers_carry_retry_after(
    server: InfluxDB2, sender: InfluxSender, given: str
) -> None:
    server.faults.append(busy(503, given))
    with pytest.raises(SinkError) as raised:
        await sender.send(body([good(1)]), 2)
    assert raised.value.reason == "http_503"
    assert raised.value.retryable
    assert raised.value.retry_after is not None
    assert raised.value.retry_after >= 3
    assert (await sender.send(body([good(1)]), 2)).delivered == 2


async def test_credentials_and_names_are_outages(server: InfluxDB2) -> None:
    for changes, reason in (
        ({"token": SecretStr("wrong")}, "unauthorized"),
        ({"token": SecretStr(server.read_only_token)}, "forbidden"),
        ({"bucket": "nosuch"}, "not_found"),
        ({"org": "nosuch"}, "not_found"),
    ):
        sender = InfluxSender(configured(server, **changes))
        await sender.open()
        with pytest.raises(SinkError) as raised:
            await sender.send(body([good(1)]), 2)
        await sender.close()
        assert (raised.value.reason, raised.value.down) == (reason, True)
    assert server.points() == []


async def test_no_answer_is_a_timeout(server: InfluxDB2) -> None:
    sender = InfluxSender(configured(server, timeout=0.2))
    await sender.open()
    server.faults.append(Fault(hang=True))
    with pytest.raises(SinkError) as raised:
        await sender.send(body([good(1)]), 2)
    await sender.close()
    assert (raised.value.reason, raised.value.retryable, raised.value.down) == (
        "timeout",
        True,
        False,
    )


async def test_a_cut_connection_can_be_tried_again(server: InfluxDB2, sender: InfluxSender) -> None:
    server.faults += [Fault(reset=True), Fault(reset=True, written=True)]
    for _ in range(2):
        with pytest.raises(SinkError) as raised:
            await sender.send(body([good(1)]), 2)
        assert (raised.value.reason, raised.value.retryable) == ("reset", True)
    assert (await sender.send(body([good(1)]), 2)).delivered == 2
    assert len(server.points()) == 1


async def test_a_stopped_server_is_down_and_comes_back(
    server: InfluxDB2, sender: InfluxSender
) -> None:
    await sender.send(body([good(1)]), 2)
    await server.stop()
    reasons = []
    while reasons[-1:] != ["refused"]:  # the first may still meet the old connection
        with pytest.raises(SinkError) as raised:
            await sender.send(body([good(2)]), 2)
        reasons.append(raised.value.reason)
    assert reasons in (["refused"], ["reset", "refused"])
    assert raised.value.down
    with pytest.raises(SinkError):
        await InfluxSender(configured(server)).open()
    await server.start()
    assert (await sender.send(body([good(2)]), 2)).delivered == 2


async def test_in_flight_connections_are_used_at_once(server: InfluxDB2) -> None:
    sender = InfluxSender(configured(server, in_flight=2))
    await sender.open()
    server.faults.append(Fault(hang=True))
    hung = asyncio.create_task(sender.send(body([good(1)]), 2))
    await server.hanging.wait()
    assert (await sender.send(body([good(2)]), 2)).delivered == 2
    await server.stop()
    with pytest.raises(SinkError):
        await hung
    await sender.close()


async def test_tls_that_fails_is_said(server: InfluxDB2) -> None:
    settings = configured(server, url=server.url.replace("http:", "https:"), tls=TlsSettings())
    sender = InfluxSender(settings)
    with pytest.raises(SinkError) as raised:
        await sender.open()
    await sender.close()
    assert raised.value.reason in ("tls", "reset", "refused")


async def test_certificates_that_are_being_replaced_are_a_sink_that_is_away(
    server: InfluxDB2, tmp_path: Path
) -> None:
    tls = TlsSettings(ca_file=tmp_path / "ca.crt")
    sender = InfluxSender(configured(server, url="https://127.0.0.1:1", tls=tls))
    with pytest.raises(SinkError, match=r"tls.ca_file .* cannot be read: No such file") as raised:
        await sender.open()
    await sender.close()
    assert (raised.value.reason, raised.value.down) == ("tls", True)


async def test_an_answer_that_never_ends_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers there is no InfluxDB; its answer is memory."""
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"10000\r\n" + bytes(65_536) + b"\r\n")
                sent += 65_536
                await writer.drain()

    monkeypatch.setattr(influx_http, "LONGEST_ANSWER", 1 << 20)
    async with await asyncio.start_server(endless, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        sender = InfluxSender(InfluxSettings(url=url, timeout=60.0))
        async with asyncio.timeout(20):
            with pytest.raises(SinkError, match="more than 1,048,576 bytes") as caught:
                await sender.open()
    assert (caught.value.reason, caught.value.down) == ("answer", True)
    assert sent < 8 << 20


@pytest.mark.parametrize(
    "login",
    [{"token": "planted-token"}, {"version": "1", "username": "u", "password": "planted-token"}],
)
async def test_an_answer_that_echoes_the_request_tells_no_secret(login: dict[str, str]) -> None:
    """Some proxies do; commands print what was answered."""
    secret = login.get("token") or base64.b64encode(b"u:planted-token").decode()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        body = b"you sent " + await reader.readuntil(b"\r\n\r\n")
        head = b"HTTP/1.1 401 No\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(head + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        http = influx_http.InfluxHttp(
            InfluxSettings.model_validate({"url": url} | login), connections=1
        )
        await http.open()
        answer = await http.request("GET", "/")
        await http.close()
    assert "you sent" in answer.message
    assert secret not in answer.message


async def test_close_is_idempotent(server: InfluxDB2, sender: InfluxSender) -> None:
    await sender.close()
    await sender.close()


@pytest.mark.parametrize(("plain", "read"), [(True, 0), (False, 1)], ids=["http", "https"])
async def test_the_systems_cas_are_read_for_tls_only(
    server: InfluxDB2, monkeypatch: pytest.MonkeyPatch, plain: bool, read: int
) -> None:
    """They take 0.05 s of every start."""
    seen = []
    monkeypatch.setattr(
        ssl.SSLContext, "load_default_certs", lambda context, *_: seen.append(context)
    )
    url = server.url if plain else "https://127.0.0.1:1"
    sender = InfluxSender(configured(server, url=url))
    if plain:
        await sender.open()
    else:
        with pytest.raises(SinkError):
            await sender.open()
    await sender.close()
    assert len(seen) == read
