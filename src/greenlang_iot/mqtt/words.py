"""What ended a connection and what to do about it, as MqttError.

Reason codes go by their names in the MQTT 5 specification.

An error is retryable unless trying again with the same settings cannot help.
"""

import os
import socket
import ssl

from mqtt5 import ConnAckReasonCode, DisconnectReasonCode, SubAckReasonCode

from greenlang_iot.model.errors import MqttError
from greenlang_iot.mqtt.tls import handshake_words

_Words = dict[str, tuple[str, bool]]

_REFUSALS: _Words = {
    "MALFORMED_PACKET": ("it found the CONNECT malformed", False),
    "PROTOCOL_ERROR": ("it found a protocol error in the CONNECT", False),
    "UNSUPPORTED_PROTOCOL_VERSION": (
        "it does not speak this protocol version; set `protocol` of the broker to the other one",
        False,
    ),
    "CLIENT_ID_NOT_VALID": (
        "it does not accept the client id; allow it in the broker, or change `instance`",
        False,
    ),
    "BAD_USER_NAME_OR_PASSWORD": (
        "user name or password are wrong; check `username` and `password` of the broker",
        False,
    ),
    "NOT_AUTHORIZED": (
        "the user is not authorised to connect; check the credentials and the broker's ACL",
        False,
    ),
    "SERVER_UNAVAILABLE": ("it is not available now", True),
    "SERVER_BUSY": ("it is busy", True),
    "BANNED": ("the client is banned; lift the ban in the broker", False),
    "BAD_AUTHENTICATION_METHOD": (
        "it wants an authentication method that the gateway does not have; allow user name and "
        "password or a client certificate",
        False,
    ),
    "PACKET_TOO_LARGE": ("the CONNECT is larger than it allows", False),
    "QUOTA_EXCEEDED": ("a quota of the broker is exceeded", True),
    "USE_ANOTHER_SERVER": ("it asks to use another server for now", True),
    "SERVER_MOVED": (
        "it has moved for good; set `host` of the broker to the new one",
        False,
    ),
    "CONNECTION_RATE_EXCEEDED": ("connections come too fast for it", True),
}

_GOODBYES: _Words = {
    "NORMAL_DISCONNECTION": ("it closed the connection", True),
    "MALFORMED_PACKET": ("it found one of our packets malformed", True),
    "PROTOCOL_ERROR": ("it found a protocol error of ours", True),
    "NOT_AUTHORIZED": ("the user is not authorised any more", False),
    "SERVER_BUSY": ("it is too busy", True),
    "SERVER_SHUTTING_DOWN": ("it is shutting down", True),
    "KEEP_ALIVE_TIMEOUT": ("it heard nothing for 1.5 keep-alives", True),
    "SESSION_TAKEN_OVER": (
        "another client connected with the same client id, so this one stops; give every "
        "gateway its own `instance`",
        False,
    ),
    "RECEIVE_MAX_EXCEEDED": ("it got more than it allowed at once", True),
    "PACKET_TOO_LARGE": ("one of our packets is larger than it allows", True),
    "QUOTA_EXCEEDED": ("a quota of the broker is exceeded", True),
    "ADMINISTRATIVE_ACTION": ("an administrator closed the connection", True),
    "USE_ANOTHER_SERVER": ("it asks to use another server for now", True),
    "SERVER_MOVED": (
        "it has moved for good; set `host` of the broker to the new one",
        False,
    ),
    "CONNECTION_RATE_EXCEEDED": ("connections come too fast for it", True),
    "MAX_CONNECT_TIME": ("the connection lasted longer than it allows", True),
}

_SUBSCRIPTIONS = {
    "UNSPECIFIED_ERROR": "it gave no reason; often its ACL forbids it",
    "IMPLEMENTATION_SPECIFIC_ERROR": "it does not accept the subscription",
    "NOT_AUTHORIZED": "not authorised; allow the topic in the broker's ACL",
    "TOPIC_FILTER_INVALID": "it does not accept the topic filter",
    "PACKET_ID_IN_USE": "the packet id is in use",
    "QUOTA_EXCEEDED": "a quota of the broker is exceeded",
    "SHARED_SUBSCRIPTIONS_NOT_SUPPORTED": (
        "it has no shared subscriptions; set mqtt.layout to sites"
    ),
    "WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED": "it has no wildcard subscriptions",
}


def refusal(code: ConnAckReasonCode, detail: str | None, server: str | None = None) -> MqttError:
    """A CONNACK that is no success. detail: its reason string. server: its server reference."""
    words, retryable = _REFUSALS.get(code.name, (_plain(code.name), True))
    return MqttError(
        f"the broker refused the connection: {words}{_named(server)}{_said(detail)}",
        reason=code.name.lower(),
        retryable=retryable,
    )


def goodbye(code: DisconnectReasonCode, detail: str | None, server: str | None = None) -> MqttError:
    """A DISCONNECT sent by the broker; the rest as in `refusal`."""
    words, retryable = _GOODBYES.get(code.name, (_plain(code.name), True))
    return MqttError(
        f"the broker ended the connection: {words}{_named(server)}{_said(detail)}",
        reason=code.name.lower(),
        retryable=retryable,
    )


def subscription_refusal(code: SubAckReasonCode) -> str:
    """Why a subscription failed."""
    return _SUBSCRIPTIONS.get(code.name, _plain(code.name))


def system_words(error: OSError) -> str:
    """The operating system's word for it (`connection refused`); asyncio's text repeats the address."""
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or str(error) or type(error).__name__
    return os.strerror(error.errno).lower()


def no_connection(host: str, port: int, error: OSError, *, tls: bool = False) -> MqttError:
    """TCP or TLS could not be established (any OSError, also ssl.SSLError and TimeoutError)."""
    reason, why = network_words(error, host)
    if tls and reason == "connection_lost":
        why += " during the TLS handshake; it may have no TLS at this port"
    return MqttError(f"no connection to the broker at {host}:{port}: {why}", reason=reason)


def lost_connection(
    error: Exception | None, before: str, *, version5: bool, tls: bool
) -> MqttError:
    """The connection ended without a word of MQTT.

    before: the packet whose answer was still to come (CONNECT, SUBSCRIBE), "" when none was.
    tls: it was a connection with TLS.
    """
    if error is not None and not isinstance(error, ConnectionResetError | BrokenPipeError):
        reason, why = network_words(error, "the broker")
        return MqttError(f"the connection was lost: {why}", reason=reason)
    cut = "closed" if error is None else "cut"
    if before == "CONNECT":
        other = "3.1.1" if version5 else "5"
        may = f"speak MQTT {other} only (`protocol`), or have no room for another client"
        may = (
            f"trust no client without a certificate, {may}"
            if tls
            else f"want TLS there (`tls`), {may}"
        )
        why = f"the broker {cut} the connection instead of answering CONNECT; it may {may}"
    elif before:
        why = (
            f"the broker {cut} the connection instead of answering {before}; if that repeats, its ACL may forbid a "
            "topic filter"
        )
    else:  # also in MQTT 5, where a broker has to say so, some do not
        why = (
            f"the broker {cut} the connection and did not say why; if that repeats, another client "
            "may use the same client id"
        )
    return MqttError(why, reason="connection_lost")


def no_mqtt(first: int) -> MqttError:
    """An answer to CONNECT that begins with a byte with which no packet of a broker does."""
    what = "not MQTT; check `host` and `port` of the broker"
    if first == 0x15:  # an alert
        what = "TLS; set `tls` of the broker"
    return MqttError(f"what answers there speaks {what}", reason="malformed_packet")


def network_words(error: Exception, host: str) -> tuple[str, str]:
    """(bounded reason, words) of what the system or TLS said."""
    match error:
        case ssl.SSLError():
            return handshake_words(error)
        case TimeoutError():
            return "timeout", "it did not answer in time (connect_timeout)"
        case ConnectionRefusedError():
            return "refused", "nothing listens there"
        case socket.gaierror():
            return "unknown_host", f"the name {host} is unknown"
        case ConnectionResetError() | BrokenPipeError():
            return "connection_lost", "it cut the connection"
        case _:
            return "network", str(error) or type(error).__name__


def _plain(name: str) -> str:
    return name.lower().replace("_", " ")


def _named(server: str | None) -> str:
    return f' (it names "{server[:200]}")' if server else ""


def _said(detail: str | None) -> str:
    return f' (it said: "{detail[:200]}")' if detail else ""
