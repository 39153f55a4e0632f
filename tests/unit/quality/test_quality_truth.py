"""A simulated fleet with known gaps, skew and bad readings: the report equals what the messages say.

The truth is computed from the simulator's messages alone, reading by reading; the report comes through
decoder, detector, counter, window file, lake and command. Time is simulated.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from tests.fakes.frames import frames
from tests.reference.quality import Arrival, Truth, truth
from typer.testing import CliRunner

from greenlang_iot.cli.main import app
from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.detect.ensemble import Detector
from greenlang_iot.devices.registry import parse
from greenlang_iot.encode.quality import quality_lines, quality_rows
from greenlang_iot.model import flags
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import GatewayError, InputError
from greenlang_iot.quality.counter import MISTYPED, QualityCounter
from greenlang_iot.quality.figures import widened
from greenlang_iot.quality.record import Window
from greenlang_iot.runtime.quality_windows import joined, load_window, save_window
from greenlang_iot.settings.model import (
    DetectSettings,
    LakeSettings,
    LimitSettings,
    QualitySettings,
    SecondStageSettings,
)
from greenlang_iot.simulate.faults import FaultMix
from greenlang_iot.simulate.fleet import Fleet, FleetOptions
from greenlang_iot.simulate.manifest import Message
from greenlang_iot.sinks.lake import Lake

SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND
INTERVAL = 2.0
MIX = FaultMix(bad=2, duplicates=20, late=4, collisions=6, gaps=3, skewed=4)
OPTIONS = FleetOptions(devices=24, seed=11, seconds=420.0, interval=INTERVAL, faults=MIX)
SETTINGS = QualitySettings(window=360.0, lag=30.0, min_readings=5)
SLOT = 60 * SECOND


def registry(fleet: Fleet) -> Directory:
    """The fleet's, but with the interval at which it really sends."""
    document: dict[str, Any] = json.loads(json.dumps(fleet.document))
    for body in document["types"].values():
        for spec in body["metrics"].values():
            spec["interval"] = INTERVAL
    return parse(orjson.dumps(document))


class Run:
    """The fleet's messages, in the order of sending, through a shard's counting.

    judged: per message (rows judged, within the band) of every device, from the scores.
    """

    def __init__(self) -> None:
        fleet = Fleet(OPTIONS, START)
        self.directory = registry(fleet)
        self.messages = list(fleet.messages())
        self.names = {self.directory.device[d]: d for d in range(self.directory.n_devices)}
        self.accuracy: list[tuple[int, int, int, int]] = []  # received, device, judged, within
        self.window = self._count()

    def received_ns(self, message: Message) -> int:
        return START + round(message.when * 1e9)

    def _count(self) -> Window:
        decoder = Decoder(self.directory, LimitSettings(), OPTIONS.topic)
        detect = DetectSettings(second_stage=SecondStageSettings(enabled=False), warmup=10)
        detector = Detector(self.directory, detect)
        counter = QualityCounter(self.directory, SETTINGS, START)
        last = None
        for message in self.messages:
            now = self.received_ns(message)
            last = counter.close(now) or last
            batch = frames([(message.topic, message.payload)], received_ns=now)
            decoded = decoder.decode(batch, now)
            scores = detector.score(decoded.readings)
            counter.count(decoded.readings, scores, decoded.rejects)
            self._note(now, decoded.readings, scores)
        last = counter.close(START + 420 * SECOND) or last
        assert last is not None
        return last

    def _note(self, now: int, readings: Any, scores: Any) -> None:
        for row in range(readings.n):
            learnt = not readings.flags[row] & flags.NOT_LEARNT
            if (
                learnt
                and not scores.verdict[row] & flags.LEARNING
                and np.isfinite(scores.band[row])
            ):
                device = int(self.directory.series_device[readings.series[row]])
                off = abs(readings.value[row] - scores.expected[row])
                self.accuracy.append((now, device, 1, int(off <= scores.band[row])))

    def truths(self) -> dict[str, Truth]:
        """By device, over the window; from the messages."""
        arrivals: dict[int, list[Arrival]] = defaultdict(list)
        rejected: dict[str, list[int]] = {name: [0, 0] for name in self.names}
        seen: set[tuple[str, str, int, int | None]] = set()
        for message in self.messages:
            now = self.received_ns(message)
            for reading in message.readings:
                if reading.device not in self.names:
                    continue
                identity = (reading.device, reading.metric, reading.ts_ns, reading.seq)
                again = flags.DUPLICATE if identity in seen else 0
                seen.add(identity)
                device = self.names[reading.device]
                arrivals[device].append(Arrival(device, reading.ts_ns, now, again))
            sender = message.topic.split("/")[3]
            if self.window.from_ns <= now < self.window.to_ns and sender in rejected:
                for _, reason in message.rejects:
                    rejected[sender][0] += 1
                    rejected[sender][1] += reason in MISTYPED
        window = self.window
        found = {}
        for name, device in self.names.items():
            item = truth(
                arrivals[device],
                device,
                window.from_ns,
                window.to_ns,
                window.to_ns - SLOT,
                30 * SECOND,
            )
            item.counts["rejected"], mistyped = rejected[name]
            item.counts["inconsistent"] += mistyped
            for now, of, judged, within in self.accuracy:
                if of == device and window.from_ns <= now < window.to_ns:
                    item.counts["judged"] += judged
                    item.counts["accurate"] += within
            found[name] = item
        return found

    def due(self, name: str) -> float:
        device = self.names[name]
        series = int(np.diff(self.directory.series_start)[device])
        return series * (self.window.to_ns - SLOT - self.window.from_ns) / 1e9 / INTERVAL


def shares(counts: Any, due: float) -> dict[str, float]:
    found = counts["arrived"] + counts["rejected"]
    return {
        "completeness": min(counts["received"], due) / due,
        "timeliness": counts["on_time"] / counts["arrived"],
        "validity": counts["arrived"] / found,
        "consistency": 1 - counts["inconsistent"] / found,
        "accuracy": counts["accurate"] / counts["judged"],
    }


@pytest.fixture(scope="module")
def run() -> Run:
    return Run()


@pytest.fixture(scope="module")
def lake(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake with the window, as the parent stores it; half of the fleet came from each shard."""
    folder = tmp_path_factory.mktemp("quality")
    windows = []
    for shard in range(2):
        owned = np.arange(run.directory.n_devices) % 2 == shard
        mine = Window(
            run.window.from_ns,
            run.window.to_ns,
            run.window.expected,
            np.where(owned[:, None], run.window.records, [0, 0, 0, 0, 0, 0, 0, 2**31 - 1]),
        )
        save_window(folder / f"{shard}.npz", mine, run.directory, owned)
        file = folder / f"{shard}.npz"
        windows.append(load_window(file, run.window.to_ns))
        assert load_window(file, run.window.to_ns + SLOT) is None, "that is another window"
    devices = joined([w for w in windows if w is not None])
    sites, fleet = widened(devices)
    writer = Lake(folder / "lake", LakeSettings())
    for scope, scopes in (("fleet", fleet), ("site", sites), ("device", devices)):
        writer.append_quality(quality_rows(scope, scopes, SETTINGS))
        assert len(list(quality_lines(scope, scopes))) == len(scopes)
    writer.close()
    return folder / "lake"


def report(lake: Path, *more: str) -> dict[str, Any]:
    arguments = ["quality", "report", "--lake", str(lake), "--devices", "100", "--json", *more]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_every_device_is_reported_as_it_was(run: Run, lake: Path) -> None:
    truths = run.truths()
    rows = {row["device"]: row for row in report(lake)["devices"]}
    assert set(rows) == set(truths)
    for name, item in truths.items():
        row, due = rows[name], run.due(name)
        assert row["expected"] == pytest.approx(due)
        for count in ("arrived", "on_time", "rejected", "inconsistent", "judged", "accurate"):
            assert row[count] == item.counts[count], (name, count)
        assert row["received"] == min(item.counts["received"], round(due)), name
        for figure, share in shares(item.counts, due).items():
            assert row[figure] == pytest.approx(share), (name, figure)
        assert item.least_lag_ms is not None
        assert row["skew"] == pytest.approx(-item.least_lag_ms / 1000)


def test_sites_and_fleet_are_the_sums_of_their_devices(run: Run, lake: Path) -> None:
    truths = run.truths()
    document = report(lake)
    d = run.directory
    for row in [*document["sites"], document["fleet"]]:
        names = [
            name
            for name, device in run.names.items()
            if row["scope"] == "fleet" or d.site[int(d.site_of[device])] == row["site"]
        ]
        counts: dict[str, float] = defaultdict(float)
        due = sum(run.due(name) for name in names)
        for name in names:
            for key, value in truths[name].counts.items():
                most = round(run.due(name)) if key == "received" else value
                counts[key] += min(value, most)
        for figure, share in shares(counts, due).items():
            assert row[figure] == pytest.approx(share), (row["site"], figure)
        skews = [-(truths[name].least_lag_ms or 0) / 1000 for name in names]
        assert abs(row["skew"]) == pytest.approx(max(abs(skew) for skew in skews))


def test_what_was_injected_is_seen(run: Run, lake: Path) -> None:
    """So that the comparison above is not one of nothing with nothing."""
    rows = report(lake)["devices"]
    gaps = [row for row in rows if row["completeness"] < 0.8]
    assert len(gaps) == MIX.gaps
    assert all("completeness" in row["below"] for row in gaps)
    assert sum(abs(row["skew"]) >= 2 for row in rows) == MIX.skewed
    assert sum(row["rejected"] for row in rows) > 10
    assert any("consistency" in row["below"] for row in rows)


def test_one_site_and_a_page_with_pictures(run: Run, lake: Path, tmp_path: Path) -> None:
    page = tmp_path / "quality.html"
    document = report(lake, "--site", "site-01", "--html", str(page))
    assert {row["site"] for row in document["devices"]} == {"site-01"}
    assert document["fleet"] is None
    text = page.read_text()
    assert text.count("<svg") == 5
    assert "site-01" in text
    shown = CliRunner().invoke(app, ["quality", "report", "--lake", str(lake)])
    assert shown.exit_code == 0
    assert "consistent" in shown.stdout


def test_wrong_input_is_said(lake: Path, tmp_path: Path) -> None:
    def said(*arguments: str) -> Exception | None:
        result = CliRunner().invoke(app, ["quality", "report", *arguments])
        return result.exception  # type: ignore[return-value]

    error = said("--lake", str(lake), "--site", "nowhere")
    assert isinstance(error, InputError)
    assert "no figures of a site 'nowhere'" in str(error)
    (tmp_path / "lake").mkdir()
    error = said("--lake", str(tmp_path / "lake"))
    assert isinstance(error, GatewayError)
    assert "no figures of quality yet" in str(error)
