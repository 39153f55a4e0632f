"""The admin endpoint on real sockets: tokens, TLS, limits; what it answers to whom it does not know."""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from greenlang_iot.model.errors import InputError
from greenlang_iot.observe import admin as admin_module
from greenlang_iot.observe.access import Tokens
from greenlang_iot.observe.admin import MAX_BODY, AdminServer, Status
from greenlang_iot.settings.model import AdminSettings
from greenlang_iot.simulate.ca import Authority, Identity

TOKENS = Tokens("the-admin-token", "the-read-token")
ADMIN = {"Authorization": f"Bearer {TOKENS.admin}"}
READ = {"Authorization": f"Bearer {TOKENS.read}"}


class Gateway:
    """An admin endpoint, what it was asked to do, and why it refused."""

    def __init__(self) -> None:
        self.reloads: list[str] = []
        self.refused: list[str] = []
        self.port = 0

    async def reload(self, actor: str) -> tuple[bool, dict[str, Any]]:
        self.reloads.append(actor)
        return True, {}

    @asynccontextmanager
    async def serving(self, **settings: Any) -> "AsyncIterator[Gateway]":
        server = AdminServer(
            AdminSettings.model_validate({"port": 0} | settings),
            lambda: b"metric 1\n",
            lambda: Status(["shard 0 is not running"], {"version": "9"}),
            TOKENS,
            self.reload,
            self.refused.append,
        )
        self.port = await server.start()
        try:
            yield self
        finally:
            await server.stop()

    async def raw(self, sent: bytes, host: str = "127.0.0.1") -> bytes:
        """Everything that comes back on one connection, until the other side closes it."""
        reader, writer = await asyncio.open_connection(host, self.port)
        try:
            writer.write(sent)
            return await asyncio.wait_for(reader.read(), 30)
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


def own_address() -> str:
    """An address of this machine that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return str(probe.getsockname()[0])


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


async def test_posts_need_the_token_on_loopback_too() -> None:
    async with (
        Gateway().serving() as gateway,
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as session,
    ):
        for headers, wanted in (({}, 401), (READ, 403), (ADMIN, 200)):
            async with session.post("/-/reload", headers=headers) as response:
                assert response.status == wanted
                assert response.headers["Server"] == "greenlang-iot"
                assert "the-" not in await response.text()
        assert gateway.reloads == ["admin token from 127.0.0.1"]
        # nothing changes by reading, whoever asks
        async with session.get("/-/reload", headers=ADMIN) as response:
            assert response.status == 405
        assert len(gateway.reloads) == 1
        assert gateway.refused == ["unauthorized", "read_only"]


async def test_a_web_page_of_another_name_learns_nothing() -> None:
    async with (
        Gateway().serving() as gateway,
        aiohttp.ClientSession(f"http://127.0.0.1:{gateway.port}") as session,
    ):
        page = {"Host": "rebound.example"}
        async with session.get("/status", headers=page) as response:
            assert response.status == 401
        async with session.get("/readyz", headers=page) as response:
            assert (response.status, await response.json()) == (503, {"ready": False})
        async with session.post("/-/reload", headers=page) as response:
            assert response.status == 401
        assert gateway.reloads == []


async def test_from_another_machine_without_tls_only_probes_are_answered() -> None:
    host = own_address()
    async with (
        Gateway().serving(host="0.0.0.0") as gateway,
        aiohttp.ClientSession(f"http://{host}:{gateway.port}") as session,
    ):
        async with session.get("/healthz") as response:
            assert (response.status, await response.json()) == (200, {"status": "alive"})
        async with session.get("/readyz") as response:
            assert (response.status, await response.json()) == (503, {"ready": False})
        for path in ("/status", "/metrics", "/other"):
            async with session.get(path, headers=ADMIN) as response:
                assert response.status == 403
                assert "admin.tls" in (await response.json())["error"]
        async with session.post("/-/reload", headers=ADMIN) as response:
            assert response.status == 403
        assert gateway.reloads == []
        assert gateway.refused == ["insecure"] * 4


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.ca_file))


def tls(identity: Identity) -> dict[str, str]:
    return {"cert_file": str(identity.cert_file), "key_file": str(identity.key_file)}


async def test_over_tls_the_token_opens_it_and_a_new_certificate_is_taken_up(
    tmp_path: Path,
) -> None:
    host = own_address()
    authority = Authority(tmp_path)
    served = authority.server((host, "127.0.0.1"))
    async with Gateway().serving(host="0.0.0.0", tls=tls(served)) as gateway:
        base = f"https://{host}:{gateway.port}"

        async def ask(method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
            connector = aiohttp.TCPConnector(ssl=trusting(authority), force_close=True)
            async with (
                aiohttp.ClientSession(base, connector=connector) as session,
                session.request(method, path, headers=headers) as response,
            ):
                return response.status, await response.read()

        assert (await ask("GET", "/metrics", {}))[0] == 401
        assert await ask("GET", "/metrics", READ) == (200, b"metric 1\n")
        assert (await ask("POST", "/-/reload", READ))[0] == 403
        assert (await ask("POST", "/-/reload", ADMIN))[0] == 200
        assert gateway.reloads == [f"admin token from {host}"]

        def serial() -> str:
            return ssl.get_server_certificate((host, gateway.port), ca_certs=authority.ca_file)

        before = await asyncio.to_thread(serial)
        again = authority.server((host, "localhost"), "renewed")
        os.replace(again.key_file, served.key_file)  # half replaced: the former pair goes on
        assert await asyncio.to_thread(serial) == before
        os.replace(again.cert_file, served.cert_file)
        assert await asyncio.to_thread(serial) != before


async def test_bad_tls_files_are_one_sentence(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("nothing")
    with pytest.raises(InputError, match="not a certificate and its private key"):
        async with Gateway().serving(tls=tls(Identity(wrong, wrong))):
            pass


async def test_bodies_and_headers_are_bounded() -> None:
    async with Gateway().serving() as gateway:
        head = b"POST /-/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        token = b"Authorization: Bearer the-admin-token\r\n"
        large = b"x" * (MAX_BODY + 1)
        sized = head + token + b"Content-Length: %d\r\n\r\n" % len(large)
        assert status_of(await gateway.raw(sized + large)) == 413
        chunked = head + token + b"Transfer-Encoding: chunked\r\n\r\n"
        one = b"%x\r\n%b\r\n0\r\n\r\n" % (len(large), large)
        assert status_of(await gateway.raw(chunked + one)) == 413
        for more in (b"X: " + b"x" * 9_000 + b"\r\n", b"X: x\r\n" * 200):
            assert status_of(await gateway.raw(head + token + more + b"\r\n")) == 400
        assert gateway.reloads == []


async def test_what_is_no_http_is_counted_and_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Gateway().serving() as gateway:
        for sent in (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"\x16\x03\x01\x00\r\n\r\n"):
            answer = await gateway.raw(sent)
            assert status_of(answer) == 400
            assert b"Server: greenlang-iot\r\n" in answer
            assert b"X-Content-Type-Options: nosniff\r\n" in answer
        assert gateway.refused == ["bad_request"] * 2
    assert caplog.records == []


QUESTION = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def test_strangers_cannot_hold_all_connections() -> None:
    """Who showed no token makes room for who comes anew, the one that is there longest first."""
    async with Gateway().serving(max_connections=2) as gateway:
        held = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
        for reader, writer in held:  # as a probe that stays: it may come again for ever
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert b"alive" in await reader.readuntil(b"}")
        assert status_of(await gateway.raw(QUESTION)) == 200
        assert gateway.refused == ["too_many_connections"]
        assert await held[0][0].read() in (b"", b"\n")
        held[1][1].write(QUESTION)
        assert b" 200 OK" in await held[1][0].read()
        for _, writer in held:
            writer.close()


async def test_connections_with_a_token_are_bounded_and_stay() -> None:
    async with Gateway().serving(max_connections=2) as gateway:
        held = [await asyncio.open_connection("127.0.0.1", gateway.port) for _ in range(2)]
        asked = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer the-read-token\r\n\r\n"
        for _ in range(2):
            for reader, writer in held:
                writer.write(asked)
                assert b" 200 OK" in await reader.readuntil(b"metric 1\n")
            assert await gateway.raw(QUESTION) == b""
        assert gateway.refused == ["too_many_connections"] * 2
        for _, writer in held:
            writer.close()


async def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_module, "HEAD_WITHIN", 0.2)
    async with Gateway().serving() as gateway:
        for begun in (b"", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX"):
            assert await gateway.raw(begun) == b""


async def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_module, "HEAD_WITHIN", 0.2)
    async with Gateway().serving() as gateway:
        sent = b"POST /-/reload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n"
        answer = await gateway.raw(sent + b"Authorization: Bearer the-admin-token\r\n\r\nx")
        assert status_of(answer) == 408
        assert gateway.refused == ["too_slow"]
        assert gateway.reloads == []
