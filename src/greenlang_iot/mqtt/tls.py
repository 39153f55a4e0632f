"""From TLS settings to an `ssl.SSLContext`: the one place where certificates are read.

Also the words for what a handshake fails of, for brokers, InfluxDB and Kafka alike.
"""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from greenlang_iot.model.errors import InputError
from greenlang_iot.settings.model import AdminTlsSettings, TlsSettings

_MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only. All of TLS 1.3's have both."""

_log = structlog.get_logger("tls")


class _Context(ssl.SSLContext):
    """Looks before each handshake whether its files were replaced, and if so reads them again.

    A certificate authority that is taken out of `ca_file` is trusted until the restart.
    """

    read: Callable[[ssl.SSLContext], None]
    files: tuple[Path, ...]
    seen: tuple[object, ...]

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        # asyncio and uvloop call this once for each connection
        self._look()
        made = super().wrap_bio(*args, **kwargs)
        # A broker that writes each packet by itself makes a record of it, and each record costs two reads: straight
        # to OpenSSL's, past the Python functions that do nothing but call them.
        openssl = made._sslobj  # type: ignore[attr-defined]
        for name in ("read", "write", "pending"):
            setattr(made, name, getattr(openssl, name))
        return made

    def _look(self) -> None:
        now = _versions(self.files)
        if now == self.seen:
            return
        try:
            self.read(
                ssl.SSLContext(self.protocol)
            )  # what is half replaced must not break this one
            self.read(self)
        except InputError as error:
            _log.warning("the former certificates go on", problem=str(error))
            return  # looked at again at the next handshake
        self.seen = now


def ssl_context(tls: TlsSettings) -> ssl.SSLContext:
    """The client context that `tls` describes; it follows when its files are replaced.

    Raises InputError with one sentence where a file is missing, unreadable or not what it should be.
    """
    if tls.key_file is not None and tls.cert_file is None:
        raise InputError(f"tls.key_file {tls.key_file} is set without tls.cert_file: set both.")

    def read(context: ssl.SSLContext) -> None:
        if tls.verify:
            _trust(context, tls.ca_file)
            if tls.crl_file is not None:
                _revoke(context, tls.crl_file)
        if tls.cert_file is not None:
            _identify(context, tls.cert_file, tls.key_file)

    context = _context(
        ssl.PROTOCOL_TLS_CLIENT,
        tls.minimum_version,
        read,
        (tls.ca_file, tls.crl_file, tls.cert_file, tls.key_file),
    )
    context.check_hostname = tls.verify and tls.check_hostname
    if not tls.verify:
        context.verify_mode = ssl.CERT_NONE
    elif tls.crl_file is not None:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def server_context(tls: AdminTlsSettings) -> ssl.SSLContext:
    """The admin endpoint's context; it follows when its files are replaced. Raises InputError."""
    return _context(
        ssl.PROTOCOL_TLS_SERVER,
        tls.minimum_version,
        lambda context: _identify(context, tls.cert_file, tls.key_file),
        (tls.cert_file, tls.key_file),
    )


@contextmanager
def without_system_cas() -> Iterator[None]:
    """Inside, new TLS contexts trust nobody: reading the system's CAs takes 0.05 s for each.

    aiohttp makes two as it is imported, for requests without a context; ours bring theirs.
    """
    names = ("load_default_certs", "set_default_verify_paths")
    before = {name: ssl.SSLContext.__dict__.get(name) for name in names}
    for name in names:
        setattr(ssl.SSLContext, name, _nothing)
    try:
        yield
    finally:
        for name, method in before.items():
            if method is None:  # inherited
                delattr(ssl.SSLContext, name)
            else:
                setattr(ssl.SSLContext, name, method)


def _nothing(context: ssl.SSLContext, *_: object) -> None:
    """In the place of what reads certificates."""


# OpenSSL's X509_V_ERR_*
_CERTIFICATES = {
    3: "there is no list of revoked certificates of its CA; put that CA's list into tls.crl_file",
    8: "the list of revoked certificates is not signed by its CA; renew tls.crl_file",
    9: "its certificate is not valid yet; check the clocks of both machines",
    10: "its certificate has expired; renew it there",
    11: "the list of revoked certificates is not valid yet; check the clocks of both machines",
    12: "the list of revoked certificates has expired; renew tls.crl_file",
    18: "its certificate is self-signed; set tls.ca_file to it if you trust it",
    19: "its certificate comes from a CA that is not trusted here; set tls.ca_file to that CA",
    20: "its certificate comes from a CA that is not trusted here; set tls.ca_file to that CA",
    23: "its certificate was revoked; do not trust it, and give it a new one",
    26: "its certificate is not meant for a server; give it one that is",
    62: "its certificate is for another host name; connect by a name that it holds",
    64: "its certificate is not for this IP address; connect by a name that it holds",
    66: "the key of its certificate is too short; give it one of 2048 bits at least",
}


def handshake_words(error: ssl.SSLError) -> tuple[str, str]:
    """(bounded reason, what failed and what to do) for a TLS handshake that did not succeed."""
    match error:
        case ssl.SSLCertVerificationError():
            why = _CERTIFICATES.get(error.verify_code, f"TLS: {error.verify_message}")
            return "tls_certificate", why
        case ssl.SSLError(reason="WRONG_VERSION_NUMBER" | "RECORD_LAYER_FAILURE"):
            return "tls", "it does not speak TLS there; check port and tls"
        case ssl.SSLError(
            reason="UNSUPPORTED_PROTOCOL"
            | "TLSV1_ALERT_PROTOCOL_VERSION"
            | "NO_PROTOCOLS_AVAILABLE"
        ):
            return "tls", "it has no TLS version that is allowed here; see tls.minimum_version"
        case ssl.SSLError(
            reason="SSLV3_ALERT_HANDSHAKE_FAILURE" | "SSL/TLS_ALERT_HANDSHAKE_FAILURE"
        ):
            return "tls", "it has no cipher with forward secrecy, or no fitting certificate"
        case ssl.SSLError(reason=str(reason)) if "CERTIFICATE" in reason or "UNKNOWN_CA" in reason:
            return "tls_client_certificate", (
                f"it did not accept our certificate ({_plain(reason)}); set tls.cert_file and "
                "tls.key_file to one that it trusts"
            )
        case _:
            return "tls", f"TLS failed ({_plain(error.reason or str(error))})"


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


def _context(
    protocol: int,
    minimum: str,
    read: Callable[[ssl.SSLContext], None],
    files: tuple[Path | None, ...],
) -> ssl.SSLContext:
    context = _Context(protocol)
    context.minimum_version = _MINIMUM[minimum]
    context.set_ciphers(_CIPHERS)
    context.read = read
    context.files = tuple(file for file in files if file is not None)
    context.seen = _versions(context.files)  # before they are read: a later change is seen
    read(context)
    return context


def _versions(files: tuple[Path, ...]) -> tuple[object, ...]:
    """Changes when one of the files does, or what its link points to."""
    found: list[object] = []
    for file in files:
        try:
            stat = file.stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def _trust(context: ssl.SSLContext, ca_file: Path | None) -> None:
    if ca_file is None:
        context.load_default_certs()
        return
    _readable("tls.ca_file", ca_file)
    try:
        context.load_verify_locations(ca_file)
    except ssl.SSLError as error:
        raise InputError(f"tls.ca_file {ca_file} holds no CA certificate in PEM form.") from error


def _revoke(context: ssl.SSLContext, crl_file: Path) -> None:
    _readable("tls.crl_file", crl_file)
    before = context.cert_store_stats()["crl"]
    try:
        context.load_verify_locations(crl_file)
    except ssl.SSLError as error:
        raise InputError(
            f"tls.crl_file {crl_file} holds no certificate revocation list in PEM form."
        ) from error
    if context.cert_store_stats()["crl"] == before == 0:
        raise InputError(
            f"tls.crl_file {crl_file} holds no certificate revocation list in PEM form."
        )


def _identify(context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> None:
    """Load our own certificate; without `key_file` the key must stand in the same file."""
    _readable("tls.cert_file", cert_file)
    if key_file is not None:
        _readable("tls.key_file", key_file)
    try:
        # A password would be asked for on the terminal: an encrypted key is refused instead.
        context.load_cert_chain(cert_file, key_file, password=_no_password)
    except _EncryptedKey as error:
        raise InputError(
            f"tls.key_file {key_file or cert_file} is encrypted: give a key without a password."
        ) from error
    except ssl.SSLError as error:
        why = (
            "do not belong together"
            if error.reason == "KEY_VALUES_MISMATCH"
            else "are not a certificate and its private key in PEM form"
        )
        raise InputError(
            f"tls.cert_file {cert_file} and tls.key_file {key_file or cert_file} {why}."
        ) from error


class _EncryptedKey(Exception):
    """OpenSSL asked for the key's password."""


def _no_password() -> str:
    raise _EncryptedKey


def _readable(name: str, path: Path) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputError(f"{name} {path} cannot be read: {error.strerror}.") from error
