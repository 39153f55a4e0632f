"""What every Kafka client of the gateway shares: connection options and the meaning of errors."""

import ssl
import struct
from typing import Any, Final

from aiokafka import errors
from aiokafka.conn import AIOKafkaConnection, collect_hosts, create_conn

from greenlang_iot.model.errors import InputError, SinkError
from greenlang_iot.mqtt.tls import handshake_words, ssl_context
from greenlang_iot.mqtt.words import system_words
from greenlang_iot.settings.model import KafkaSettings, TlsSettings

LONGEST_ANSWER: Final = 67_108_864
"""Bytes of one answer. aiokafka gathers whatever it is told, up to 2 GiB, and takes HTTP for a size."""


class _NoKafka(OSError):
    """What came is no answer of Kafka's protocol."""


async def _read(connection: Any) -> None:
    """aiokafka's reader with a bound. connection: a weak reference."""
    if (begun := connection()) is None:
        return
    reader = begun._reader
    del begun  # the connection may go while its answer is waited for
    while True:
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        if not 0 <= size <= LONGEST_ANSWER:
            raise _NoKafka(f"what answers there is no Kafka: it announces {size:,} bytes")
        frame = await reader.readexactly(size)
        if (alive := connection()) is None:
            return
        alive._handle_frame(frame)
        del alive


AIOKafkaConnection._read = staticmethod(_read)


class InvalidRecord(errors.BrokerResponseError):  # type: ignore[misc]
    """Error 87, which aiokafka 0.14 does not know: the broker's validation refused a record."""

    errno = 87
    message = "INVALID_RECORD"
    description = "This record has failed the validation on the broker and hence was rejected."


errors.kafka_errors.setdefault(InvalidRecord.errno, InvalidRecord)

POISON: Final = (
    errors.MessageSizeTooLargeError,
    errors.RecordListTooLargeError,
    errors.InvalidTimestampError,
    errors.CorruptRecordException,
    errors.InvalidMessageError,
    InvalidRecord,
)
"""The broker wrote nothing of the batch and never will: find the records it means."""

SEQUENCE: Final = (
    errors.OutOfOrderSequenceNumber,
    errors.UnknownProducerId,
    errors.InvalidProducerEpoch,
    errors.InvalidProducerIdMapping,
    errors.ProducerFenced,
)
"""The broker does not follow this producer's sequence any more: a new producer id heals it."""

_MEANING: Final[tuple[tuple[tuple[type[BaseException], ...], str, bool], ...]] = (
    # errors, reason, down
    (
        (
            errors.TopicAuthorizationFailedError,
            errors.ClusterAuthorizationFailedError,
            errors.SaslAuthenticationFailed,
            errors.UnsupportedSaslMechanismError,
            errors.IllegalSaslStateError,
        ),
        "unauthorized",
        True,
    ),
    ((errors.UnknownTopicOrPartitionError, errors.InvalidTopicError), "topic_missing", True),
    (
        (errors.NotEnoughReplicasError, errors.NotEnoughReplicasAfterAppendError),
        "not_enough_replicas",
        False,
    ),
    ((errors.NotLeaderForPartitionError, errors.LeaderNotAvailableError), "no_leader", False),
    ((errors.RequestTimedOutError, errors.KafkaTimeoutError, TimeoutError), "timeout", False),
    (
        (errors.KafkaConnectionError, errors.NodeNotReadyError, errors.StaleMetadata, OSError),
        "no_brokers",
        True,
    ),
)


def sink_error(error: BaseException, what: str) -> SinkError:
    """aiokafka's error as ours; `what` begins the sentence."""
    handshake = _cause(error, ssl.SSLError)
    if isinstance(handshake, ssl.SSLError):
        return SinkError(f"{what}: {handshake_words(handshake)[1]}", reason="tls", down=True)
    for kinds, reason, down in _MEANING:
        if isinstance(error, kinds):
            if isinstance(error, OSError) and error.errno:
                error = OSError(system_words(error))
            elif (cause := _cause(error, _NoKafka)) is not None:
                error = cause
            return SinkError(f"{what}: {error or reason}", reason=reason, down=down)
    return SinkError(f"{what}: {error!r}", reason="broker_error")


def _cause(error: BaseException | None, kind: type[OSError]) -> OSError | None:
    """What `error` stands for, if it is such: a failed TLS handshake, or an answer that is none."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """Keyword arguments for aiokafka's producer and admin client.

    Raises InputError where a certificate cannot be read.
    """
    options: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers,
        "request_timeout_ms": max(1, int(settings.timeout * 1000)),
        "security_protocol": settings.security_protocol,
    }
    if settings.security_protocol in ("SSL", "SASL_SSL"):
        options["ssl_context"] = ssl_context(settings.tls or TlsSettings())
    if settings.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        options["sasl_mechanism"] = settings.sasl_mechanism or "PLAIN"
        options["sasl_plain_username"] = settings.username or ""
        password = settings.password
        options["sasl_plain_password"] = password.get_secret_value() if password else ""
    return options


async def why_unreachable(settings: KafkaSettings) -> BaseException | None:
    """The error of the first bootstrap server: aiokafka only logs it, whether it is a refused
    connection, a bad certificate or a wrong password. None where it can be reached after all, or where
    a certificate was taken away since: the next attempt says so."""
    try:
        options = client_options(settings)
    except InputError:
        return None
    host, port, _ = collect_hosts(options.pop("bootstrap_servers"))[0]
    try:
        connection = await create_conn(host, port, **options)
    except (OSError, errors.KafkaError) as error:
        return error
    await connection.close()
    return None
