"""`unknown_devices: accept`: bounded guests, stable indices, and the Directory that they join."""

import numpy as np
import pytest
from tests.fakes.decode_frames import frame_batch
from tests.fakes.directory import directory

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.model.batches import Decoded
from greenlang_iot.model.directory import Directory
from greenlang_iot.settings.model import LimitSettings

TEMPLATE = "greenlang/{org}/{site}/{device}/telemetry"
NOW = 1_714_566_896_789_000_000
LIMITS = LimitSettings(
    unknown_devices="accept", max_unknown_devices=3, max_metrics_per_unknown_device=2
)


def message(device: str, metric: str = "m", unit: str = "", place: str = "acme/site-0") -> tuple[bytes, bytes, bool]:  # fmt: skip
    extra = f',"unit":"{unit}"' if unit else ""
    payload = f'{{"ts":1714566896,"metric":"{metric}","value":5{extra}}}'
    return f"greenlang/{place}/{device}/telemetry".encode(), payload.encode(), False


def decode(decoder: Decoder, *messages: tuple[bytes, bytes, bool]) -> Decoded:
    return decoder.decode(frame_batch(messages), NOW)


def reasons(decoded: Decoded) -> list[str]:
    return [reason for reject in decoded.rejects for _, reason in reject.paths]


def described(d: Directory, series: int) -> tuple[str, ...]:
    device = d.series_device[series]
    return (
        d.org[d.org_of[device]],
        d.site[d.site_of[device]],
        d.type[d.type_of[device]],
        d.device[device],
        d.metric[d.series_metric[series]],
        d.unit[d.series_unit[series]],
    )


def assert_consistent(d: Directory) -> None:
    assert len(d.series_start) == d.n_devices + 1
    assert d.series_start[-1] == d.n_series
    for device in range(d.n_devices):
        own = d.series_device[d.series_start[device] : d.series_start[device + 1]]
        assert (own == device).all()
    series = [d.series_metric, d.series_unit, d.low, d.high, d.warn_low, d.warn_high, d.step]
    for column in [*series, d.interval_ns, d.profile, d.series_enabled]:
        assert len(column) == d.n_series
    for column in [d.org_of, d.site_of, d.type_of, d.enabled]:
        assert len(column) == d.n_devices


def test_a_guest_is_added_and_fast_from_the_next_batch_on() -> None:
    decoder = Decoder(directory(4), LIMITS, TEMPLATE)
    before = decoder.directory
    first = decode(
        decoder, message("new", "flow", "l/min", "acme/site-0"), message("d000", "humidity")
    )
    assert first.readings.series.tolist() == [8, 1]
    assert (first.fast, reasons(first)) == (1, [])
    assert described(decoder.directory, 8) == ("acme", "site-0", "unknown", "new", "flow", "l/min")
    assert_consistent(decoder.directory)
    assert (before.n_devices, before.n_series) == (4, 8)
    assert np.array_equal(decoder.directory.series_metric[:8], before.series_metric)
    grown = decoder.directory
    second = decode(decoder, message("new", "flow", "l/min"))
    assert (second.fast, second.readings.series.tolist()) == (1, [8])
    assert decoder.directory is grown


def test_metrics_are_learnt_one_by_one_up_to_the_bound() -> None:
    decoder = Decoder(directory(4), LIMITS, TEMPLATE)
    decode(decoder, message("new", "a"), message("other", "a", place="org2/siteX"))
    middle = decoder.directory
    decoded = decode(decoder, message("new", "b"), message("new", "c"), message("new", "b"))
    assert decoded.readings.series.tolist() == [9, 9]
    assert reasons(decoded) == ["unknown_metric"]
    assert described(decoder.directory, 9)[3:] == ("new", "b", "1")
    assert described(decoder.directory, 10) == ("org2", "siteX", "unknown", "other", "a", "1")
    assert middle.series_enabled.tolist()[8:] == [1, 0, 1, 0], "a published Directory never changes"
    assert_consistent(decoder.directory)


def test_the_number_of_guests_is_bounded() -> None:
    decoder = Decoder(directory(4), LIMITS, TEMPLATE)
    decoded = decode(decoder, *[message(f"n{i}") for i in range(5)], message("n0"))
    assert reasons(decoded) == ["unknown_device"] * 2
    assert decoder.directory.n_devices == 7
    assert decoded.readings.frame.tolist() == [0, 1, 2, 5]


def test_a_guest_has_one_place() -> None:
    decoder = Decoder(directory(4), LIMITS, TEMPLATE)
    moved = message("new", place="acme/site-1")
    assert reasons(decode(decoder, message("new"), moved)) == ["wrong_place"]
    assert reasons(decode(decoder, moved)) == ["wrong_place"]


@pytest.mark.parametrize("name", ["a+", "#", "$sys", "a b", "a\x01", "x" * 129, "_gateway", "a,b"])
def test_names_that_could_mean_something_elsewhere_stay_unknown(name: str) -> None:
    decoder = Decoder(directory(4), LIMITS, TEMPLATE)
    before = decoder.directory
    assert reasons(decode(decoder, message(name))) == ["unknown_device"]
    assert reasons(decode(decoder, message("new", place=f"{name}/s"))) == ["unknown_device"]
    assert decoder.directory is before


def test_metric_names_and_units_are_checked_too() -> None:
    decoder = Decoder(directory(4), LIMITS, TEMPLATE)
    bad = decode(decoder, message("new", "a b"), message("new", "time"), message("new", "m", "a b"))
    assert reasons(bad) == ["unknown_metric"] * 3


def test_a_unit_is_kept_from_the_first_reading_on() -> None:
    one = decode(Decoder(directory(4), LIMITS, TEMPLATE), message("n", "m", "K"), message("n", "m", "V"), message("n", "m", "K"))  # fmt: skip
    assert one.readings.frame.tolist() == [0, 2]
    assert reasons(one) == ["unknown_unit"]


def test_how_batches_are_cut_does_not_matter() -> None:
    messages = [
        message(f"n{i % 3}", f"m{i % 4}", "K" if i % 5 else "", f"acme/site-{i % 3}") for i in range(40)
    ]  # fmt: skip
    whole, cut = (Decoder(directory(4), LIMITS, TEMPLATE) for _ in range(2))
    decoded = decode(whole, *messages)
    series: list[int] = []
    cut_reasons: list[str] = []
    for one in messages:
        part = decode(cut, one)
        series += part.readings.series.tolist()
        cut_reasons += reasons(part)
    assert series == decoded.readings.series.tolist()
    assert cut_reasons == reasons(decoded)
    assert [described(whole.directory, s) for s in series] == [
        described(cut.directory, s) for s in series
    ]


def test_guests_outlive_a_reload() -> None:
    decoder = Decoder(directory(4), LIMITS, TEMPLATE)
    decode(decoder, message("new", "a"))
    decoder.grow(decoder.directory)
    reloaded = Decoder(directory(4), LIMITS, TEMPLATE)
    decode(reloaded, message("new", "a"))
    decoder.grow(reloaded.directory)  # equal content, another object, as a reload makes it
    decoded = decode(decoder, message("new", "a"), message("new", "b"), message("n2"), message("n3"), message("n4"))  # fmt: skip
    assert decoded.readings.series.tolist() == [8, 9, 10, 12]
    assert reasons(decoded) == ["unknown_device"]
    assert_consistent(decoder.directory)
