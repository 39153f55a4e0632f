"""From TLS settings to an `ssl.SSLContext`: the one place where certificates are read."""

import ssl
from pathlib import Path

from greenlang_iot.model.errors import InputError
from greenlang_iot.settings.model import TlsSettings

_MINIMUM = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def ssl_context(tls: TlsSettings) -> ssl.SSLContext:
    """The client context that `tls` describes.

    Raises InputError with one sentence where a file is missing, unreadable or not what it should be.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _MINIMUM[tls.minimum_version]
    if tls.verify:
        context.check_hostname = tls.check_hostname
        _trust(context, tls.ca_file)
    else:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file is not None:
        _identify(context, tls.cert_file, tls.key_file)
    elif tls.key_file is not None:
        raise InputError(f"tls.key_file {tls.key_file} is set without tls.cert_file: set both.")
    return context


def _trust(context: ssl.SSLContext, ca_file: Path | None) -> None:
    if ca_file is None:
        context.load_default_certs()
        return
    _readable("tls.ca_file", ca_file)
    try:
        context.load_verify_locations(ca_file)
    except ssl.SSLError as error:
        raise InputError(f"tls.ca_file {ca_file} holds no CA certificate in PEM form.") from error


def _identify(context: ssl.SSLContext, cert_file: Path, key_file: Path | None) -> None:
    """Load the client certificate; without `key_file` the key must stand in the same file."""
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
