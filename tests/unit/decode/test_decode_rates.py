"""Token buckets: what is over a rate is rejected with a reason, and nobody else notices."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes.decode_frames import frame_batch
from tests.fakes.directory import directory

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.decode.rates import Rates
from greenlang_iot.model.reasons import Reason
from greenlang_iot.settings.model import LimitSettings

SECOND = 10**9
NOW = 1_714_566_896 * SECOND
TEMPLATE = "greenlang/{org}/{site}/{device}/telemetry"


def over(rates: Rates, *devices: int, at: float = 0.0) -> list[bool]:
    return rates.over(np.array(devices, np.int32), NOW + int(at * SECOND)).tolist()


def test_a_device_has_one_second_s_worth_and_then_its_rate() -> None:
    rates = Rates(directory(), device_rate=2, site_rate=0)
    assert over(rates, 0, 1, 0, 0, 1) == [False, False, False, True, False]
    assert over(rates, 0, at=0.4) == [True]
    assert over(rates, 0, 0, at=0.51) == [False, True]
    assert over(rates, 0, 0, 0, at=100) == [False, False, True]


def test_a_site_s_bucket_is_shared_by_its_devices() -> None:
    rates = Rates(directory(sites=2), device_rate=2, site_rate=3)
    assert over(rates, 0, 2, 1, 4, 6, 3) == [False, False, False, False, True, False]
    # what its device's rate already refused takes nothing from the site
    rates = Rates(directory(sites=2), device_rate=1, site_rate=2)
    assert over(rates, 0, 0, 0, 2) == [False, True, True, False]


def test_unknown_devices_are_none_of_its_business_and_0_is_no_limit() -> None:
    assert over(Rates(directory(), 1, 1), -1, -1, -1) == [False] * 3
    assert over(Rates(directory(), 0, 0), *[0] * 50) == [False] * 50


def test_a_clock_that_goes_back_stops_nobody_for_long() -> None:
    rates = Rates(directory(), device_rate=1, site_rate=0)
    assert over(rates, 0, at=0) == [False]
    assert over(rates, 0, at=-3_600) == [True]
    assert over(rates, 0, at=-3_599) == [False]


@given(
    batches=st.lists(
        st.tuples(st.lists(st.integers(-1, 4), max_size=8), st.floats(0, 2)), max_size=8
    ),
    rate=st.sampled_from([1.0, 2.5]),
)
def test_like_one_bucket_after_the_other(
    batches: list[tuple[list[int], float]], rate: float
) -> None:
    rates, at = Rates(directory(5), rate, 0), 0
    tokens, since = [rate] * 5, [0] * 5
    for devices, later in batches:
        at += int(later * SECOND)
        expected = []
        for device in devices:
            if device < 0:
                expected.append(False)
                continue
            tokens[device] = min(rate, tokens[device] + (at - since[device]) * 1e-9 * rate)
            since[device] = at
            expected.append(tokens[device] < 1)
            tokens[device] -= tokens[device] >= 1
        assert rates.over(np.array(devices, np.int32), at).tolist() == expected


@pytest.mark.parametrize("fast", [True, False])
def test_what_is_over_the_rate_is_rejected_whole_with_its_device(fast: bool) -> None:
    decoder = Decoder(directory(), LimitSettings(device_rate=2), TEMPLATE, fast=fast)
    loud, quiet = (b"greenlang/acme/site-0/d000/telemetry", b"greenlang/acme/site-1/d001/telemetry")
    payload = b'{"ts":1714566896,"metric":"temperature","value":20}'
    messages = [(topic, payload, False) for topic in (loud, loud, loud, quiet, loud)]
    decoded = decoder.decode(frame_batch(messages), NOW)
    assert decoded.readings.frame[: decoded.readings.n].tolist() == [0, 1, 3]
    assert [(r.device, r.paths, r.payload) for r in decoded.rejects] == [
        ("d000", [("", Reason.OVER_RATE)], payload)
    ] * 2
    assert (decoded.messages, decoded.undecodable) == (5, 2)


def test_the_rate_can_be_set_while_it_runs() -> None:
    decoder = Decoder(directory(), LimitSettings(), TEMPLATE)
    topic = b"greenlang/acme/site-0/d000/telemetry"
    messages = [(topic, b'{"ts":1714566896,"metric":"temperature","value":20}', False)] * 4
    assert decoder.decode(frame_batch(messages), NOW).rejects == []
    decoder.configure(LimitSettings(device_rate=1))
    assert len(decoder.decode(frame_batch(messages), NOW).rejects) == 3
