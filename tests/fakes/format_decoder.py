"""A Decoder with one format on one topic, and what it makes of payloads, in words."""

from typing import Any, NamedTuple

from tests.fakes.decode_frames import frame_batch
from tests.fakes.directory import directory

from greenlang_iot.decode.decoder import Decoder
from greenlang_iot.model.batches import Decoded
from greenlang_iot.model.flags import HAS_SEQ, TEXT_IN_ARENA
from greenlang_iot.settings.formats import routes
from greenlang_iot.settings.model import FormatSettings, LimitSettings, MqttSettings

NOW = 1_714_566_896_789_000_000
NOW_MS = NOW // 1_000_000
TEMPLATE = "greenlang/{org}/{site}/{device}/telemetry"
LIMITS = LimitSettings(max_payload_bytes=4_096, max_readings_per_message=200)


class Row(NamedTuple):
    device: str
    metric: str
    ts: int
    value: float
    seq: int | None


class Read(NamedTuple):
    rows: list[Row]
    rejects: list[list[tuple[str, str]]]  # per message
    decoded: Decoded


class FormatDecoder:
    """`read` payloads of `name` on the topics of its entry."""

    def __init__(
        self,
        name: str,
        template: str = "x/{org}/{site}/{device}",
        *,
        limits: LimitSettings = LIMITS,
        registry: Any = None,
        **entry: Any,
    ) -> None:
        self.settings = MqttSettings(formats=[FormatSettings(topic=template, format=name, **entry)])
        self.directory = registry or directory(4)
        self.decoder = Decoder(self.directory, limits, TEMPLATE, routes(self.settings))

    def read(self, *payloads: bytes, topic: str = "x/acme/site-0/d000", now: int = NOW) -> Read:
        return self.read_all([(topic, payload) for payload in payloads], now)

    def read_all(self, messages: list[tuple[str, bytes]], now: int = NOW) -> Read:
        frames = frame_batch([(t.encode(), p, False) for t, p in messages], received_ns=now - 5)
        decoded = self.decoder.decode(frames, now)
        batch, d = decoded.readings, self.decoder.directory
        rows = []
        for i in range(batch.n):
            series = int(batch.series[i])
            has_seq = batch.flags[i] & HAS_SEQ
            blob = batch.arena if batch.flags[i] & TEXT_IN_ARENA else batch.buffer
            at = int(batch.text_off[i])
            text = blob[at : at + int(batch.text_len[i])].tobytes()
            assert float(text) == batch.value[i]  # what sinks write is the value
            rows.append(
                Row(
                    d.device[int(d.series_device[series])],
                    d.metric[int(d.series_metric[series])],
                    int(batch.ts_ns[i]),
                    float(batch.value[i]),
                    int(batch.seq[i]) if has_seq else None,
                )
            )
        return Read(rows, [reject.paths for reject in decoded.rejects], decoded)
