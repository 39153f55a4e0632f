"""Why a message or a reading was rejected: one bounded list for dead letters, metrics and tests."""

from enum import StrEnum


class Reason(StrEnum):
    """A reject's reason; with `is_message` nothing of the message was decoded."""

    # a whole message (counted in messages)
    MALFORMED = "malformed"  # not JSON, invalid UTF-8, or not an object/array of objects
    TOO_LARGE = "too_large"  # payload over limits.max_payload_bytes, or cut by framing
    TOO_MANY_READINGS = "too_many_readings"  # over limits.max_readings_per_message
    BAD_TOPIC = "bad_topic"  # does not follow the topic template
    UNKNOWN_DEVICE = "unknown_device"
    WRONG_PLACE = "wrong_place"  # the device is registered under another org or site
    DEVICE_DISABLED = "device_disabled"
    OVER_RATE = "over_rate"  # over limits.device_rate or limits.site_rate

    # one reading (counted in readings)
    BAD_SHAPE = "bad_shape"  # neither metric+value nor values, or a field of the wrong type
    UNKNOWN_ALIAS = "unknown_alias"  # Sparkplug: no birth that is known says what it stands for
    BAD_QUALITY = "bad_quality"  # Sparkplug: its own source calls the value bad or stale
    UNKNOWN_METRIC = "unknown_metric"
    UNKNOWN_UNIT = "unknown_unit"  # no factor to the registry's unit
    OUT_OF_RANGE = "out_of_range"  # outside the registry's valid range
    NON_FINITE = "non_finite"
    NOT_A_NUMBER = "not_a_number"  # the value is a string, null, bool, object …
    TS_MISSING = "ts_missing"
    TS_INVALID = "ts_invalid"  # neither ISO 8601 nor an epoch number
    TS_TOO_OLD = "ts_too_old"
    TS_IN_FUTURE = "ts_in_future"

    # one line or record, refused by a sink (counted in readings of that sink)
    SINK_REFUSED = "sink_refused"

    @property
    def is_message(self) -> bool:
        """True if the reason concerns a whole message."""
        return self in _MESSAGE


_MESSAGE = frozenset(
    {
        Reason.MALFORMED,
        Reason.TOO_LARGE,
        Reason.TOO_MANY_READINGS,
        Reason.BAD_TOPIC,
        Reason.UNKNOWN_DEVICE,
        Reason.WRONG_PLACE,
        Reason.DEVICE_DISABLED,
        Reason.OVER_RATE,
    }
)
