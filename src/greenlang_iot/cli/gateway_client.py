"""Asking the running gateway on this machine, with the token that lies in its `data_dir`."""

import json
import ssl
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from greenlang_iot.model.errors import GatewayError, InputError

if TYPE_CHECKING:
    from greenlang_iot.settings.model import AdminSettings, Settings


def ask(
    settings: "Settings", method: str, path: str, body: object = None, *, timeout: float = 60.0
) -> tuple[int, dict[str, Any]]:
    """(HTTP status, JSON answer) of the gateway that these settings describe.

    Raises InputError where its token cannot be read, GatewayError where it does not answer.
    """
    from greenlang_iot.observe.access import ADMIN_TOKEN
    from greenlang_iot.runtime.instance_lock import is_locked

    file = settings.data_dir / ADMIN_TOKEN
    try:
        token = file.read_text().strip()
    except FileNotFoundError:
        raise InputError(
            f"there is no {file}: no gateway was started on this data_dir yet."
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot read {file} ({error.strerror}): run this as the gateway's user."
        ) from error
    # On the port of a gateway that is not there, any user may listen for the token.
    if settings.admin.tls is None and not is_locked(settings.data_dir):
        raise GatewayError(
            f"no gateway runs with the data_dir {settings.data_dir}; `greenlang-iot run` starts it."
        )
    host, port = _address(settings)
    where = f"{host}:{port}"
    connection = _connection(settings.admin, host, port, timeout)
    try:
        connection.request(
            method,
            path,
            None if body is None else json.dumps(body),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except OSError as error:
        from greenlang_iot.mqtt.words import system_words

        why = system_words(error)
        raise GatewayError(f"no gateway answers at {where} ({why}): is it running?") from error
    except (HTTPException, ValueError) as error:
        raise GatewayError(
            f"what answers at {where} is no gateway: is admin.port right?"
        ) from error
    finally:
        connection.close()


def _address(settings: "Settings") -> tuple[str, int]:
    """Where the gateway that runs on this `data_dir` listens; where none does, what the settings say."""
    from greenlang_iot.observe.access import local_url
    from greenlang_iot.runtime.folders import admin_url_file

    try:
        url = admin_url_file(settings).read_text().strip()
    except OSError:
        url = local_url(settings.admin, settings.admin.port)
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 0


def _connection(admin: "AdminSettings", host: str, port: int, timeout: float) -> HTTPConnection:
    if admin.tls is None:
        return HTTPConnection(host, port, timeout=timeout)
    # Trust exactly the gateway's own certificate, whatever name it was issued for.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        context.load_verify_locations(admin.tls.cert_file)
    except OSError as error:
        raise InputError(f"admin.tls.cert_file {admin.tls.cert_file}: {error.strerror}") from error
    return HTTPSConnection(host, port, timeout=timeout, context=context)
