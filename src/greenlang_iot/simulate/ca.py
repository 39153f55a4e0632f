"""A throw-away certificate authority for loopback: the demo's, the tests' and the bench's TLS.

`loopback(folder)` makes CA and server certificate at the first run and uses them again while they
are valid for a day at least. Keys are readable by their owner only. Not for any real network.
"""

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from greenlang_iot.settings.secrets import write_private

_VALID = dt.timedelta(days=90)
_RENEW_BEFORE = dt.timedelta(days=1)
_SKEW = dt.timedelta(hours=1)
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(slots=True, frozen=True)
class Identity:
    """A certificate and its private key, as PEM files."""

    cert_file: Path
    key_file: Path


class Authority:
    """The CA kept in `folder` (`ca.pem`, `ca.key`); made when it is missing or about to expire."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca_file = folder / "ca.pem"
        self._key_file = folder / "ca.key"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not _usable(self.ca_file, self._key_file):
            key = ec.generate_private_key(ec.SECP256R1())
            write_private(self._key_file, _pem(key))
            write_private(self.ca_file, _self_signed(key).public_bytes(serialization.Encoding.PEM))
        self._cert = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
        loaded = serialization.load_pem_private_key(self._key_file.read_bytes(), password=None)
        assert isinstance(loaded, ec.EllipticCurvePrivateKey)
        self._key = loaded

    def server(
        self, hosts: tuple[str, ...] = LOOPBACK, name: str = "server", *, expired: bool = False
    ) -> Identity:
        """A server certificate for `hosts` (names or addresses); used again while it is valid."""
        return self._issue(name, hosts[0], hosts, ExtendedKeyUsageOID.SERVER_AUTH, expired)

    def client(self, common_name: str, *, expired: bool = False) -> Identity:
        """A client certificate; Mosquitto's `use_identity_as_username` takes its common name."""
        return self._issue(
            f"client-{common_name}", common_name, (), ExtendedKeyUsageOID.CLIENT_AUTH, expired
        )

    def _issue(
        self,
        name: str,
        common_name: str,
        hosts: tuple[str, ...],
        usage: x509.ObjectIdentifier,
        expired: bool,
    ) -> Identity:
        identity = Identity(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
        reusable = not expired and _usable(identity.cert_file, identity.key_file)
        if reusable and self._issued(identity.cert_file, names):
            return identity
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        begin, end = (now - 2 * _SKEW, now - _SKEW) if expired else (now - _SKEW, now + _VALID)
        builder = (
            _builder(common_name, self._cert.subject, key.public_key(), begin, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
        )
        if hosts:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        write_private(identity.key_file, _pem(key))
        write_private(identity.cert_file, certificate.public_bytes(serialization.Encoding.PEM))
        return identity

    def _issued(self, cert_file: Path, names: x509.SubjectAlternativeName) -> bool:
        """True if this CA signed the certificate, for these names (clients have none)."""
        certificate = x509.load_pem_x509_certificate(cert_file.read_bytes())
        try:
            certificate.verify_directly_issued_by(self._cert)
        except (ValueError, InvalidSignature):
            return False
        try:
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        except x509.ExtensionNotFound:
            return not list(names)
        return found.value == names


def loopback(folder: Path) -> tuple[Path, Identity]:
    """(CA file, server certificate for localhost, 127.0.0.1 and ::1) kept in `folder`."""
    authority = Authority(folder)
    return authority.ca_file, authority.server()


def server_context(identity: Identity, client_ca: Path | None = None) -> ssl.SSLContext:
    """The context of a TLS server; with `client_ca` only clients with its certificates get in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(identity.cert_file, identity.key_file)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _self_signed(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    name = "greenlang-iot throw-away CA"
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(name, None, key.public_key(), now - _SKEW, now + _VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )


def _builder(
    common_name: str,
    issuer: x509.Name | None,
    key: ec.EllipticCurvePublicKey,
    begin: dt.datetime,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    """What all our certificates have; without `issuer` it is self-signed."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer or subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _usable(cert_file: Path, key_file: Path) -> bool:
    """True if both files are there, belong together and hold for a day at least."""
    try:
        certificate = x509.load_pem_x509_certificate(cert_file.read_bytes())
        key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    except (OSError, ValueError):
        return False
    return (
        isinstance(key, ec.EllipticCurvePrivateKey)
        and key.public_key() == certificate.public_key()
        and certificate.not_valid_after_utc > dt.datetime.now(dt.UTC) + _RENEW_BEFORE
    )
