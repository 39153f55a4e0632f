"""TLS towards brokers, InfluxDB and Kafka: what is refused, in which words; rotation on disk.

Every handshake is real, on loopback, with certificates made here.
"""

import asyncio
import itertools
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.fakes.mqtt_broker import Recorder, fake_broker
from tests.fakes.pki import CLIENT, HOUR, Pki
from tests.reference.mqtt import publish

from greenlang_iot.model.errors import InputError, SinkError
from greenlang_iot.mqtt.tls import ssl_context
from greenlang_iot.mqtt.transport import Connection
from greenlang_iot.settings.model import (
    BatchSettings,
    BrokerSettings,
    InfluxSettings,
    KafkaSettings,
    TlsSettings,
)
from greenlang_iot.sinks.influx_http import InfluxHttp
from greenlang_iot.sinks.kafka import KafkaSender


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


def mqtt(port: int, handler: Recorder, tls: TlsSettings) -> Connection:
    numbers = itertools.count(1)
    settings = BrokerSettings(port=port, tls=tls)
    batch = BatchSettings(linger=0.001)
    connection = Connection(
        settings, "gw-0-0", ["greenlang/#"], 1, batch, handler, lambda: next(numbers)
    )
    handler.connection = connection
    return connection


@asynccontextmanager
async def running(connection: Connection) -> AsyncIterator[None]:
    task = asyncio.ensure_future(connection.run())
    try:
        yield
    finally:
        await connection.close()
        await task


async def to_broker(port: int, tls: TlsSettings) -> str:
    connection = mqtt(port, Recorder(), tls)
    async with running(connection):
        while connection.problem is None:
            await asyncio.sleep(0.001)
        return str(connection.problem)


async def to_influxdb(port: int, tls: TlsSettings) -> str:
    http = InfluxHttp(
        InfluxSettings(url=f"https://127.0.0.1:{port}", tls=tls, timeout=20), connections=1
    )
    with pytest.raises(SinkError) as raised:
        await http.open()
    assert (raised.value.reason, raised.value.down) == ("tls", True)
    return str(raised.value)


async def to_kafka(port: int, tls: TlsSettings) -> str:
    sender = KafkaSender(
        KafkaSettings(
            bootstrap_servers=f"127.0.0.1:{port}", security_protocol="SSL", tls=tls, timeout=20
        ),
        "iot.readings",
    )
    with pytest.raises(SinkError) as raised:
        await sender.open()
    await sender.close()
    assert (raised.value.reason, raised.value.down) == ("tls", True)
    return str(raised.value)


@contextmanager
def tls_server(context: ssl.SSLContext) -> Iterator[int]:
    """The port of a server that says in a TLS alert what it does not like, as real ones do.

    (asyncio's cuts the connection instead.)
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with suppress(OSError), client, context.wrap_socket(client, True) as tls:
                        tls.settimeout(5)
                        while tls.recv(4096):
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


Way = Callable[[int, TlsSettings], Awaitable[str]]
BEGINS = {
    to_broker: "no connection to the broker at 127.0.0.1",
    to_influxdb: "no connection to InfluxDB at https://127.0.0.1",
    to_kafka: "cannot connect to Kafka at 127.0.0.1",
}


def weak(pki: Pki) -> ssl.SSLContext:
    """A server with TLS 1.2 and no forward secrecy."""
    rsa_key = rsa.generate_private_key(65537, 2048)
    context = pki.issue("no-forward-secrecy", key=rsa_key).server()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-GCM-SHA256")
    return context


def old(pki: Pki) -> ssl.SSLContext:
    context = pki.issue("old").server()
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def short(pki: Pki) -> ssl.SSLContext:
    pair = pki.issue("short", key=rsa.generate_private_key(65537, 1024))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.load_cert_chain(pair.cert_file, pair.key_file)
    return context


CASES: dict[str, tuple[Callable[[Pki], ssl.SSLContext], str]] = {
    "wrong host": (
        lambda pki: pki.issue("elsewhere", ("broker.example",)).server(),
        "its certificate is not for this IP address; connect by a name that it holds",
    ),
    "wrong CA": (
        lambda pki: Pki(pki.ca_file.parent / "other", "another CA").issue("server").server(),
        "its certificate comes from a CA that is not trusted here; set tls.ca_file to that CA",
    ),
    "expired": (
        lambda pki: pki.issue("expired", begins=-2 * HOUR, ends=-HOUR).server(),
        "its certificate has expired; renew it there",
    ),
    "not yet valid": (
        lambda pki: pki.issue("early", begins=HOUR, ends=2 * HOUR).server(),
        "its certificate is not valid yet; check the clocks of both machines",
    ),
    "self-signed": (
        lambda pki: pki.issue("own", signed_by_itself=True).server(),
        "its certificate is self-signed; set tls.ca_file to it if you trust it",
    ),
    "a client's": (
        lambda pki: pki.issue("client-only", usage=CLIENT).server(),
        "its certificate is not meant for a server; give it one that is",
    ),
    "short key": (
        short,
        "the key of its certificate is too short; give it one of 2048 bits at least",
    ),
    "old TLS": (old, "it has no TLS version that is allowed here; see tls.minimum_version"),
    "no forward secrecy": (
        weak,
        "it has no cipher with forward secrecy, or no fitting certificate",
    ),
}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
@pytest.mark.parametrize("way", [to_broker, to_influxdb, to_kafka])
@pytest.mark.parametrize("case", CASES)
async def test_each_is_refused_with_one_clear_sentence(way: Way, case: str, pki: Pki) -> None:
    make, words = CASES[case]
    with tls_server(make(pki)) as port:
        said = await way(port, TlsSettings(ca_file=pki.ca_file))
    assert said.startswith(BEGINS[way])
    assert said.endswith(f": {words}")
    assert "\n" not in said


@pytest.mark.parametrize("way", [to_broker, to_influxdb, to_kafka])
async def test_revoked_and_what_is_wrong_with_the_list(way: Way, pki: Pki) -> None:
    good, bad = pki.issue("good"), pki.issue("bad")
    other = Pki(pki.ca_file.parent / "others-list", "a third CA")
    for server, crl_file, words in (
        (bad, pki.revocations(bad), "revoked; do not trust it, and give it a new one"),
        (good, pki.revocations(ends=-HOUR, file="old-list.pem"), "has expired; renew tls.crl_file"),
        (good, other.revocations(), "put that CA's list into tls.crl_file"),
    ):
        with tls_server(server.server()) as port:
            said = await way(port, TlsSettings(ca_file=pki.ca_file, crl_file=crl_file))
        assert said.endswith(words)


async def test_one_that_is_not_revoked_gets_through(pki: Pki) -> None:
    good, bad = pki.issue("kept"), pki.issue("taken-back")
    tls = TlsSettings(ca_file=pki.ca_file, crl_file=pki.revocations(bad))
    handler = Recorder()
    async with fake_broker(good.server()) as broker, running(mqtt(broker.port, handler, tls)):
        await (await broker.peer()).accept()
        await handler.until(up=1)


@pytest.mark.parametrize("content", ["", "nothing", "the CA itself"])
def test_a_list_that_is_none_is_a_mistake(content: str, pki: Pki, tmp_path: Path) -> None:
    crl = tmp_path / "list.pem"
    crl.write_text(pki.ca_file.read_text() if content == "the CA itself" else content)
    with pytest.raises(InputError, match="holds no certificate revocation list"):
        ssl_context(TlsSettings(ca_file=pki.ca_file, crl_file=crl))


async def test_a_client_certificate_of_another_ca_is_said_to_be_ours(pki: Pki) -> None:
    server = pki.issue("mutual").server(client_ca=pki.ca_file)
    stranger = Pki(pki.ca_file.parent / "strangers", "strangers' CA").issue("s", usage=CLIENT)
    tls = TlsSettings(ca_file=pki.ca_file, cert_file=stranger.cert_file, key_file=stranger.key_file)
    with tls_server(server) as port:
        said = await to_broker(port, tls)
    assert "it did not accept our certificate (tlsv1 alert unknown ca)" in said
    assert "set tls.cert_file and tls.key_file" in said


def test_only_modern_ciphers_are_offered(pki: Pki) -> None:
    offered = ssl_context(TlsSettings(ca_file=pki.ca_file)).get_ciphers()
    assert {c["aead"] for c in offered} == {True}
    assert {c["protocol"] for c in offered} == {"TLSv1.2", "TLSv1.3"}
    assert {c["kea"] for c in offered if c["protocol"] == "TLSv1.2"} == {"kx-ecdhe"}


# rotation


class Rotating:
    """A CA file, a client certificate and its key, replaced the way certificate managers do."""

    def __init__(self, folder: Path, pki: Pki) -> None:
        self.tls = TlsSettings(
            ca_file=folder / "ca.pem",
            crl_file=folder / "revoked.pem",
            cert_file=folder / "client.pem",
            key_file=folder / "client.key",
        )
        self.put("ca_file", pki.ca_file)
        self.put("crl_file", pki.revocations())
        self.client(pki, "first-client")

    def put(self, name: str, source: Path) -> None:
        target: Path = getattr(self.tls, name)
        new = target.with_suffix(".new")
        new.write_bytes(source.read_bytes())
        os.replace(new, target)

    def client(self, pki: Pki, name: str) -> None:
        pair = pki.issue(name, usage=CLIENT)
        self.put("key_file", pair.key_file)
        self.put("cert_file", pair.cert_file)


async def test_a_broker_connection_survives_rotation_without_losing_an_ack(tmp_path: Path) -> None:
    """Everything is replaced by a new CA's; what was not acknowledged is acknowledged after it."""
    first, second = Pki(tmp_path / "first", "first CA"), Pki(tmp_path / "second", "second CA")
    files = Rotating(tmp_path, first)
    context = first.issue("server").server(client_ca=first.ca_file)
    handler = Recorder()
    async with fake_broker(context) as broker, running(mqtt(broker.port, handler, files.tls)):
        peer = await broker.peer()
        await peer.accept()
        peer.send(publish(b"t", b"one", 1), publish(b"t", b"two", 2))
        await handler.until(rows=2)
        assert handler.connection is not None
        renewed = second.issue("server")
        context.load_cert_chain(renewed.cert_file, renewed.key_file)
        context.load_verify_locations(second.ca_file)
        files.put("ca_file", second.ca_file)
        files.put("crl_file", second.revocations())
        files.client(second, "second-client")
        peer.close()
        peer = await broker.peer()
        await peer.accept()
        peer.send(publish(b"t", b"one", 1), publish(b"t", b"two", 2))  # not acknowledged: again
        await handler.until(rows=4)
        number, _, _, _ = handler.rows[-1]
        handler.connection.acknowledge(number, np.array([1, 2], np.uint16))
        assert await peer.acks(2) == [1, 2]


async def test_a_sinks_context_follows_its_files(tmp_path: Path) -> None:
    """InfluxDB's and Kafka's clients keep one context for ever; it reads its files again."""
    first, second = Pki(tmp_path / "first", "first CA"), Pki(tmp_path / "second", "second CA")
    files = Rotating(tmp_path, first)
    ours = ssl_context(files.tls)
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        certificate = writer.get_extra_info("peercert")
        seen.append(certificate["subject"][0][0][1])
        writer.close()

    async def connect(context: ssl.SSLContext) -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        async with server:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=ours)
            assert await reader.read() == b""
            writer.close()

    await connect(first.issue("server").server(client_ca=first.ca_file))
    theirs = second.issue("server")
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed certificate in"):
        await connect(theirs.server(client_ca=second.ca_file))
    files.put("ca_file", second.ca_file)
    files.put("crl_file", second.revocations())
    pair = second.issue("second-client", usage=CLIENT)
    files.put("key_file", pair.key_file)  # half replaced: the former pair goes on
    await connect(first.issue("server").server(client_ca=first.ca_file))
    files.put("cert_file", pair.cert_file)
    await connect(theirs.server(client_ca=second.ca_file))
    assert seen == ["first-client", "first-client", "second-client"]
    # and a certificate that is revoked later is refused from then on
    files.put("crl_file", second.revocations(theirs))
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        await connect(theirs.server(client_ca=second.ca_file))
