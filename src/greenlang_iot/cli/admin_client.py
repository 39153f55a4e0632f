"""Commands that ask the running gateway: its admin endpoint, with the token that lies in its data_dir."""

import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenlang_iot.model.errors import GatewayError, InputError

if TYPE_CHECKING:
    from greenlang_iot.settings.model import Settings

TIMEOUT = 15.0


def ask(
    settings: "Settings",
    method: str,
    path: str,
    body: dict[str, Any] | None = None,
    query: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The answer's JSON object. query: parameters, left out where None.

    Raises InputError for what the gateway refuses, GatewayError where it cannot be asked.
    """
    wanted = {name: str(value) for name, value in (query or {}).items() if value is not None}
    if settings.admin.port == 0:
        raise InputError("admin.port is 0, any free port: set one, so that the gateway is found.")
    where = f"http://{_host(settings)}:{settings.admin.port}"
    url = f"{where}{path}" + (f"?{urllib.parse.urlencode(wanted)}" if wanted else "")
    request = urllib.request.Request(url, method=method)  # noqa: S310  (always http)
    if method != "GET":
        request.data = json.dumps(body or {}).encode()
        request.add_header("Content-Type", "application/json")
        request.add_header("Authorization", f"Bearer {_token(settings)}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:  # noqa: S310
            found = json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise _refused(error, where, settings.data_dir) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "reason", error)
        raise GatewayError(
            f"No gateway answers at {where} ({why}): is it running with these settings?"
        ) from error
    if not isinstance(found, dict):
        raise GatewayError(f"What answers at {where} is no gateway.")
    return found


def quoted(name: str) -> str:
    """A name as one part of a path."""
    return urllib.parse.quote(name, safe="")


def _host(settings: "Settings") -> str:
    host = settings.admin.host
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  (it is replaced, not bound)
    host = anywhere.get(host, host)
    return f"[{host}]" if ":" in host else host


def _token(settings: "Settings") -> str:
    path = settings.data_dir / "admin-token"
    try:
        return path.read_text().strip()
    except OSError as error:
        raise GatewayError(
            f"The admin token {path} cannot be read ({error.strerror}): it is made at the gateway's "
            "first start, and only its owner may read it."
        ) from error


def _refused(error: urllib.error.HTTPError, where: str, data_dir: Path) -> GatewayError:
    """What an answer of 400 and above means."""
    try:
        document = json.loads(error.read())
        message, problems = str(document["error"]), tuple(map(str, document.get("problems", ())))
    except (ValueError, KeyError, TypeError, OSError):
        return GatewayError(f"The gateway at {where} answered {error.code} {error.reason}.")
    if error.code == 401:
        return GatewayError(
            f"The gateway at {where} does not take the token of {data_dir}: are these its settings?"
        )
    if error.code >= 500:
        return GatewayError(f"The gateway at {where} cannot: {message}.")
    return InputError(f"{message}.", problems)
