"""Who may ask the admin endpoint for what: the table at the top of `access.py`, cell by cell."""

import os
import stat
from pathlib import Path

import pytest

from greenlang_iot.observe.access import Asked, Tokens, is_direct, is_loopback, refusal

TOKENS = Tokens("the-admin-token", "the-read-token")
LOCAL, AWAY = "127.0.0.1", "192.0.2.7"
READS = ("/metrics", "/status", "/nowhere")


def asked(
    method: str = "GET",
    path: str = "/status",
    peer: str = LOCAL,
    secure: bool = False,
    token: str | None = None,
    **headers: str,
) -> Asked:
    given = {"Host": "127.0.0.1:8090"} | {k.replace("_", "-"): v for k, v in headers.items()}
    if token is not None:
        given["Authorization"] = f"Bearer {token}"
    return Asked(method, path, peer, secure, given)


def status(request: Asked) -> int:
    refused = refusal(request, TOKENS)
    return 200 if refused is None else refused.status


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("peer", [LOCAL, AWAY])
def test_probes_are_answered_to_everybody(path: str, peer: str) -> None:
    assert status(asked(path=path, peer=peer)) == 200
    assert status(asked("HEAD", path, peer, Host="gateway.example")) == 200


@pytest.mark.parametrize("path", READS)
def test_reading_is_free_on_this_machine_only(path: str) -> None:
    assert status(asked(path=path)) == 200
    assert status(asked(path=path, peer="::1", Host="[::1]:8090")) == 200
    assert status(asked(path=path, peer="::ffff:127.0.0.1", Host="localhost")) == 200
    assert status(asked(path=path, peer=AWAY, secure=True)) == 401
    assert status(asked(path=path, peer=AWAY, secure=True, token=TOKENS.read)) == 200
    assert status(asked(path=path, peer=AWAY, secure=True, token=TOKENS.admin)) == 200


@pytest.mark.parametrize("token", [None, TOKENS.read, TOKENS.admin])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_tls_nothing_is_told_to_other_machines(method: str, token: str | None) -> None:
    assert status(asked(method, peer=AWAY, token=token)) == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get"])
@pytest.mark.parametrize("path", ["/-/reload", "/healthz", "/status"])
def test_whatever_may_change_something_needs_the_admin_token(method: str, path: str) -> None:
    for peer, secure in ((LOCAL, False), (LOCAL, True), (AWAY, True)):
        assert status(asked(method, path, peer, secure)) == 401
        assert status(asked(method, path, peer, secure, TOKENS.read)) == 403
        assert status(asked(method, path, peer, secure, TOKENS.admin)) == 200


@pytest.mark.parametrize(
    "header",
    [
        "", "Bearer", "Bearer ", "the-admin-token", "bearer the-admin-token", "Bearer the-admin-toke",
        "Bearer the-admin-token ", "Bearer the-admin-tokenX", "Basic the-admin-token", "Bearer \udcff",
    ],
)  # fmt: skip
def test_only_the_very_token_counts(header: str) -> None:
    assert status(asked("POST", "/-/reload", Authorization=header)) == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8090", "127.0.0.1.evil.example", "localhost.evil.example",
             "", "[::1", "127.0.0.1@evil.example", "0x7f.1", "127.0.0.1 evil"],
)  # fmt: skip
def test_a_rebound_name_is_no_request_from_here(host: str) -> None:
    request = asked(Host=host)
    assert is_direct(request) is host.startswith("[::1")  # an address is an address
    assert status(request) == (200 if is_direct(request) else 401)


@pytest.mark.parametrize(
    "header", ["Forwarded", "X_Forwarded_For", "X_Forwarded_Host", "X_Real_IP", "Via"]
)
def test_what_a_proxy_passed_on_is_not_from_here(header: str) -> None:
    assert status(asked(**{header: "192.0.2.7"})) == 401
    assert status(asked(token=TOKENS.read, **{header: "192.0.2.7"})) == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_page_has_a_browser_ask_is_not_from_here(site: str) -> None:
    """A page cannot read the answer, but it could keep streams open and have pictures made."""
    page = {"Sec_Fetch_Site": site}
    assert status(asked(path="/api/v1/events", Sec_Fetch_Dest="empty", **page)) == 401
    assert status(asked(path="/metrics", Sec_Fetch_Dest="iframe", **page)) == 401
    assert status(asked(path="/metrics", token=TOKENS.read, **page)) == 200
    assert status(asked(path="/healthz", **page)) == 200
    # a person followed a link, such as an alert's in Alertmanager
    assert status(asked(path="/api/v1/alerts/a1", Sec_Fetch_Dest="document", **page)) == 200
    for own in ("same-origin", "none"):
        assert status(asked(Sec_Fetch_Site=own, Sec_Fetch_Dest="empty")) == 200


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True),
     ("192.0.2.7", False), ("::ffff:192.0.2.7", False), ("fe80::1%lo", False), ("", False),
     ("localhost", False), ("0.0.0.0", False)],
)  # fmt: skip
def test_loopback_is_told_by_the_address(address: str, loopback: bool) -> None:
    assert is_loopback(address) is loopback


def test_tokens_are_made_once_for_their_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        tokens = Tokens.of(tmp_path)
    finally:
        os.umask(before)
    assert len({tokens.admin, tokens.read}) == 2
    assert min(len(tokens.admin), len(tokens.read)) >= 43  # 256 bits
    for name in ("admin-token", "read-token"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    (tmp_path / "read-token").chmod(0o644)  # somebody's copy
    (tmp_path / "admin-token").write_text("")  # a crash of old
    again = Tokens.of(tmp_path)
    assert (again.read, again.admin != tokens.admin) == (tokens.read, True)
    assert stat.S_IMODE((tmp_path / "read-token").stat().st_mode) == 0o600


@pytest.mark.parametrize("path", ["/", "/console/app.js"])
def test_the_consoles_files_hold_no_data_and_can_ask_for_the_token(path: str) -> None:
    assert status(asked(path=path, peer=AWAY, secure=True)) == 200
    assert status(asked(path=path, peer=LOCAL, X_Forwarded_For="192.0.2.9")) == 200
    assert status(asked(path=path, peer=AWAY)) == 403
    assert status(asked("POST", path, peer=AWAY, secure=True)) == 401
