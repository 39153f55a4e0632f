import datetime as dt
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509

from greenlang_iot.model.errors import InputError
from greenlang_iot.mqtt.tls import ssl_context
from greenlang_iot.settings.model import TlsSettings
from greenlang_iot.simulate import ca
from greenlang_iot.simulate.ca import Authority, loopback, server_context


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    """The TLS version of one handshake over a socket pair; raises what the client raises."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(theirs, server_side=True) as wrapped:
                wrapped.recv(1)
        except (ssl.SSLError, OSError):
            theirs.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(ours, server_hostname=host) as wrapped:
            version = wrapped.version()
            wrapped.sendall(b"x")
            wrapped.settimeout(5)
            wrapped.recv(1)  # a server that refuses our certificate says so only now
            return version or ""
    finally:
        ours.close()
        thread.join()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_the_server_certificate_holds_for_loopback(tmp_path: Path, host: str) -> None:
    ca_file, identity = loopback(tmp_path / "ca")
    client = ssl_context(TlsSettings(ca_file=ca_file, minimum_version="1.3"))
    assert handshake(server_context(identity), client, host) == "TLSv1.3"


def test_keys_are_private_and_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "ca"
    first = loopback(folder)
    bodies = {path: path.read_bytes() for path in folder.iterdir()}
    assert loopback(folder) == first
    assert {path: path.read_bytes() for path in folder.iterdir()} == bodies
    assert {p.name for p in bodies} == {"ca.pem", "ca.key", "server.pem", "server.key"}
    for path in folder.glob("*.key"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_about_to_expire_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ca, "_VALID", dt.timedelta(hours=20))
    _, identity = loopback(tmp_path)
    old = identity.cert_file.read_bytes()
    monkeypatch.undo()
    ca_file, identity = loopback(tmp_path)
    assert identity.cert_file.read_bytes() != old
    certificate = x509.load_pem_x509_certificate(identity.cert_file.read_bytes())
    assert certificate.not_valid_after_utc > dt.datetime.now(dt.UTC) + dt.timedelta(days=80)
    assert handshake(
        server_context(identity), ssl_context(TlsSettings(ca_file=ca_file)), "localhost"
    )


def test_a_certificate_of_another_ca_or_for_other_hosts_is_not_used_again(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    old = authority.server().cert_file.read_bytes()
    assert authority.server(("example.test",)).cert_file.read_bytes() != old
    (tmp_path / "ca.key").unlink()
    ca_file, identity = loopback(tmp_path)
    assert handshake(
        server_context(identity), ssl_context(TlsSettings(ca_file=ca_file)), "localhost"
    )


@pytest.mark.parametrize(
    ("hosts", "expired", "words"),
    [
        (("example.test",), False, "[Hh]ostname mismatch|not valid for"),
        (("localhost",), True, "expired"),
    ],
)
def test_wrong_host_and_expired_variants_are_refused(
    tmp_path: Path, hosts: tuple[str, ...], expired: bool, words: str
) -> None:
    authority = Authority(tmp_path)
    identity = authority.server(hosts, "variant", expired=expired)
    client = ssl_context(TlsSettings(ca_file=authority.ca_file))
    with pytest.raises(ssl.SSLCertVerificationError, match=words):
        handshake(server_context(identity), client, "localhost")


def test_hostname_check_and_verification_can_be_turned_off(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = server_context(authority.server(("example.test",), "variant"))
    no_name = TlsSettings(ca_file=authority.ca_file, check_hostname=False)
    assert handshake(server, ssl_context(no_name), "localhost")
    assert handshake(server, ssl_context(TlsSettings(verify=False)), "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, ssl_context(TlsSettings()), "localhost")


def test_client_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    other = Authority(tmp_path / "other")
    server = server_context(authority.server(), client_ca=authority.ca_file)

    def client(identity: ca.Identity | None) -> ssl.SSLContext:
        files = (identity.cert_file, identity.key_file) if identity else (None, None)
        return ssl_context(
            TlsSettings(ca_file=authority.ca_file, cert_file=files[0], key_file=files[1])
        )

    assert handshake(server, client(authority.client("gw-1")), "localhost")
    for identity in (None, other.client("gw-1"), authority.client("gw-2", expired=True)):
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            handshake(server, client(identity), "localhost")


def test_mistakes_in_tls_settings_are_one_sentence(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    one, two = authority.client("one"), authority.client("two")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not a certificate")
    cases = {
        "ca_file .*missing.pem cannot be read": TlsSettings(ca_file=tmp_path / "missing.pem"),
        "ca_file .*garbage.pem holds no CA": TlsSettings(ca_file=garbage),
        "do not belong together": TlsSettings(cert_file=one.cert_file, key_file=two.key_file),
        "set both": TlsSettings(key_file=one.key_file),
        "are not a certificate": TlsSettings(cert_file=garbage, key_file=one.key_file),
        "key_file .* cannot be read": TlsSettings(
            cert_file=one.cert_file, key_file=tmp_path / "missing.key"
        ),
    }
    for words, settings in cases.items():
        with pytest.raises(InputError, match=words) as caught:
            ssl_context(settings)
        assert str(caught.value).endswith(".")
        assert "\n" not in str(caught.value)


def test_an_encrypted_key_is_refused_without_asking(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    identity = Authority(tmp_path).client("one")
    key = serialization.load_pem_private_key(identity.key_file.read_bytes(), None)
    identity.key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(InputError, match="encrypted"):
        ssl_context(TlsSettings(cert_file=identity.cert_file, key_file=identity.key_file))
