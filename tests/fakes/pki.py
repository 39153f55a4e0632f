"""Certificates good and bad: what a test needs to see each of them refused."""

import datetime as dt
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
HOUR = dt.timedelta(hours=1)
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, as PEM files."""

    cert_file: Path
    key_file: Path
    certificate: x509.Certificate

    def server(self, client_ca: Path | None = None) -> ssl.SSLContext:
        """The context of a server that shows it; with `client_ca` it wants one from the client."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_file, self.key_file)
        if client_ca is not None:
            context.load_verify_locations(client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class Pki:
    """A certificate authority in a folder of its own."""

    def __init__(self, folder: Path, name: str = "test CA") -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._lists = 0
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = dt.datetime.now(dt.UTC)
        self._certificate = (
            _begun(self._name, self._name, self._key, now - HOUR, now + 24 * HOUR)
            .add_extension(x509.BasicConstraints(True, None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(_pem(self._certificate))

    def issue(
        self,
        name: str,
        hosts: tuple[str, ...] = ("127.0.0.1", "localhost"),
        *,
        begins: dt.timedelta = -HOUR,
        ends: dt.timedelta = HOUR,
        usage: x509.ObjectIdentifier = SERVER,
        key: Key | None = None,
        signed_by_itself: bool = False,
    ) -> Pair:
        """A certificate valid from `begins` to `ends`, both from now."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        issuer = subject if signed_by_itself else self._name
        names = [_alternative(host) for host in hosts]
        certificate = (
            _begun(subject, issuer, key, now + begins, now + ends)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .sign(key if signed_by_itself else self._key, hashes.SHA256())
        )
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key", certificate)
        pair.cert_file.write_bytes(_pem(certificate))
        pair.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return pair

    def revocations(
        self, *revoked: Pair, ends: dt.timedelta = HOUR, file: str = "revoked.pem"
    ) -> Path:
        """The authority's list of revoked certificates; a later one replaces it."""
        now = dt.datetime.now(dt.UTC)
        self._lists += 1  # of two lists OpenSSL takes the later one, by whole seconds
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._name)
            .last_update(
                now + min(ends, dt.timedelta()) - HOUR + self._lists * dt.timedelta(seconds=1)
            )
            .next_update(now + ends)
        )
        for pair in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(pair.certificate.serial_number)
                .revocation_date(now)
                .build()
            )
        path = self._folder / file
        path.write_bytes(
            builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        return path


def _begun(
    subject: x509.Name, issuer: x509.Name, key: Key, begins: dt.datetime, ends: dt.datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
