"""What ended a connection, in words."""

import socket
import ssl

import aiomqtt
import pytest

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.mqtt import words
from greenlang_iot.mqtt.client import client_words
from greenlang_iot.mqtt.listen import listen
from greenlang_iot.settings.model import BrokerSettings


def tls_error(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] something (_ssl.c:2580)")
    error.reason = reason
    return error


CUT = ConnectionResetError(104, "Connection reset by peer")


@pytest.mark.parametrize(
    ("error", "reason", "says"),
    [
        (None, "connection_lost", "closed the connection and did not say why"),
        (CUT, "connection_lost", "cut the connection and did not say why"),
        (tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "tls_client_certificate", "tls.cert_file"),
        (tls_error("TLSV1_ALERT_UNKNOWN_CA"), "tls_client_certificate", "unknown ca"),
        (tls_error("NO_PROTOCOLS_AVAILABLE"), "tls", "see tls.minimum_version"),
        (tls_error("BAD_ECPOINT"), "tls", "TLS failed (bad ecpoint)"),
        (OSError(113, "No route to host"), "network", "No route to host"),
    ],
)
def test_lost_connection(error: Exception | None, reason: str, says: str) -> None:
    lost = words.lost_connection(error, "", version5=True, tls=True)
    assert lost.reason == reason
    assert says in str(lost)
    assert lost.retryable


@pytest.mark.parametrize(
    ("before", "version5", "tls", "says"),
    [
        ("CONNECT", True, False, "may want TLS there (`tls`), speak MQTT 3.1.1 only"),
        ("CONNECT", False, False, "may want TLS there (`tls`), speak MQTT 5 only"),
        ("CONNECT", True, True, "may trust no client without a certificate, speak MQTT 3.1.1 only"),
        ("SUBSCRIBE", True, True, "instead of answering SUBSCRIBE; if that repeats, its ACL"),
        ("SUBSCRIBE", False, False, "instead of answering SUBSCRIBE; if that repeats, its ACL"),
        ("", True, True, "another client may use the same client id"),
        ("", False, True, "another client may use the same client id"),
    ],
)
def test_what_a_connection_that_ended_without_a_word_may_mean(
    before: str, version5: bool, tls: bool, says: str
) -> None:
    for error in (None, CUT):
        lost = str(words.lost_connection(error, before, version5=version5, tls=tls))
        assert says in lost
        assert ("same client id" in lost) == (not before)


async def test_a_broker_that_is_not_there_is_said_without_numbers() -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        broker = BrokerSettings(host="127.0.0.1", port=taken.getsockname()[1])
        with pytest.raises(GatewayError, match=r"^cannot listen to .*: nothing listens there$"):
            await listen(broker, "#", 1, lambda topic, payload: None)


def test_a_refusal_is_said_without_its_code() -> None:
    assert client_words(aiomqtt.MqttCodeError(5), "h") == "The connection was refused."
    assert client_words(aiomqtt.MqttError("Disconnected"), "h") == "Disconnected"
    unread = GatewayError("no such file")
    unread.__cause__ = OSError(2, "No such file")
    assert client_words(unread, "h") == "no such file"
