"""What ended a connection, in words."""

import ssl

import pytest

from greenlang_iot.mqtt import words


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] something (_ssl.c:2580)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "reason", "says"),
    [
        (None, "connection_lost", "did not say why"),
        (ConnectionResetError(104, "Connection reset by peer"), "connection_lost", "it cut the"),
        (tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "tls_client_certificate", "tls.cert_file"),
        (tls_error("TLSV1_ALERT_UNKNOWN_CA"), "tls_client_certificate", "unknown ca"),
        (tls_error("NO_PROTOCOLS_AVAILABLE"), "tls", "see tls.minimum_version"),
        (tls_error("BAD_ECPOINT"), "tls", "TLS failed (bad ecpoint)"),
        (OSError(113, "No route to host"), "network", "No route to host"),
    ],
)
def test_lost_connection(error: Exception | None, reason: str, says: str) -> None:
    lost = words.lost_connection(error)
    assert lost.reason == reason
    assert says in str(lost)
    assert lost.retryable
