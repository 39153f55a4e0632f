"""One number as text: `…/temperature` → `21.4`; the metric is the topic's {metric} level."""

import re
from collections.abc import Sequence

from greenlang_iot.formats.base import Payload, Reading
from greenlang_iot.model.reasons import Reason

_INTEGER = re.compile(rb"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_NOT_FINITE = re.compile(rb"[+-]?(?:nan|inf|infinity)", re.I)


class Plain:
    """A decimal number, with spaces and line ends around it or not; no time stamp, no unit."""

    def read(self, payload: Payload) -> Sequence[Reading]:
        text = payload.data.strip()
        value: int | float | Reason
        if _INTEGER.fullmatch(text):
            value = int(text)
        elif _NUMBER.fullmatch(text):
            value = float(text)
        elif _NOT_FINITE.fullmatch(text):
            value = Reason.NON_FINITE
        else:
            value = Reason.NOT_A_NUMBER
        return [Reading("value", payload.metric, value, None)]
