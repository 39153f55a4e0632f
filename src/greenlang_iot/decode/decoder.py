"""Messages → columns of valid readings, and one Reject for each message with anything bad in it."""

from collections.abc import Sequence
from operator import itemgetter

import numpy as np

from greenlang_iot.decode.general import Message, MessageReader, parse_payloads
from greenlang_iot.decode.guests import Guests
from greenlang_iot.decode.kernels import FIELDS, NUMBERS, scan
from greenlang_iot.decode.layouts import Layouts
from greenlang_iot.decode.lookup import Lookup
from greenlang_iot.decode.rates import Rates
from greenlang_iot.decode.routes import Routes
from greenlang_iot.decode.rows import DTYPES, Columns, Rows, Window, merged
from greenlang_iot.decode.tables import Tables
from greenlang_iot.decode.topics import TopicTable
from greenlang_iot.formats.base import Payload, SessionFormat
from greenlang_iot.formats.catalog import Route
from greenlang_iot.formats.inflate import MAGIC, TooLarge, inflate
from greenlang_iot.formats.topics import Place, TopicTemplate
from greenlang_iot.model.batches import I32, Decoded, FrameBatch, ReadingBatch, Reject
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.flags import CLOCK_SUSPECT, FRAME_CUT, FRAME_RETAIN, RETAINED
from greenlang_iot.model.reasons import Reason
from greenlang_iot.settings.model import LimitSettings

_EARLIEST, _LATEST = -(2**63), 2**63 - 1
_NO_TEXTS = Rows().texts()


class Decoder:
    """Decodes the batches of one shard.

    The columns of a result may be views of buffers that the next `decode()` of this Decoder reuses.
    `directory` is the live Directory: with `unknown_devices: accept` a call of `decode()` may replace
    it by a larger one in which known series keep their index.
    formats: topics whose payloads are not our JSON. `fast=False` sends every message through the
    general path; the results are the same.
    """

    def __init__(
        self,
        directory: Directory,
        limits: LimitSettings,
        topic_template: str,
        formats: Sequence[Route] = (),
        *,
        fast: bool = True,
    ) -> None:
        self.directory = directory
        self._rates: Rates | None = None
        self.configure(limits)
        self._template = TopicTemplate(topic_template)
        self._routes = Routes(self._template, formats)
        self._sessions = [r.format for r in formats if isinstance(r.format, SessionFormat)]
        self._fast = fast
        accept = limits.unknown_devices == "accept"
        self._guests = (
            Guests(directory, limits.max_unknown_devices, limits.max_metrics_per_unknown_device)
            if accept
            else None
        )
        self._fields, self._numbers = np.zeros(FIELDS, np.int64), np.zeros(NUMBERS)
        self._device: I32 = np.empty(0, np.int32)
        self._rest: I32 = np.empty(0, np.int32)
        self._columns: Columns = {name: np.empty(0, dtype) for name, dtype in DTYPES.items()}
        self._load(directory)

    def _load(self, directory: Directory) -> None:
        self.directory = directory
        self._limit_rates()
        self._lookup = Lookup(directory)
        room = self._limits.max_unknown_devices - self._guests.n if self._guests else 0
        self._tables = Tables.of(directory)
        self._layouts = Layouts(directory.n_devices)
        self._topics = TopicTable(directory, self._template, max(room, 0))

    def configure(self, limits: LimitSettings) -> None:
        """Use other limits from the next batch on; those on unknown devices are as at the start."""
        self._limits = limits
        self._max_age_ns = int(limits.max_age * 1e9)
        self._max_future_ns = int(limits.max_future * 1e9)
        self._receive_time = limits.missing_ts == "receive_time"
        self._limit_rates()

    def _limit_rates(self) -> None:
        """New buckets, all full, for the present devices; none where no rate is limited."""
        rates = self._limits.device_rate, self._limits.site_rate
        self._rates = Rates(self.directory, *rates) if any(rates) else None

    def grow(self, directory: Directory) -> None:
        """Go on with a reloaded Directory, made from this one: known series keep their index."""
        if directory is self.directory:
            return
        if self._guests is not None:
            self._guests.reset(directory)
        self._load(directory)

    def decode(self, frames: FrameBatch, now_ns: int, clock_suspect: bool = False) -> Decoded:
        """Decode one batch of messages.

        now_ns: wall clock, ns since 1970. clock_suspect: `now_ns` may be wrong, so that time stamps
        are not judged and every row is flagged CLOCK_SUSPECT. Rows and rejects are in the order of
        the frames, and within a message in the order of the document.
        """
        if len(self._device) < frames.n:
            self._device, self._rest = np.empty((2, 2 * frames.n), np.int32)
        if self._routes.default_is_json:
            self._topics.find(frames, self._device)
        else:
            self._device[: frames.n] = -1
        over = self._over_rate(frames, now_ns) if self._rates is not None else {}
        if frames.cut:  # the scan leaves them
            self._device[: frames.n][frames.flags[: frames.n] & FRAME_CUT != 0] = -1
        window = self._window(frames, now_ns, clock_suspect)
        base = CLOCK_SUSPECT if clock_suspect else 0
        columns, rest = self._scan(frames, window, base)
        rejects: list[Reject] = []
        arena = _NO_TEXTS
        if len(rest):
            rows = Rows()
            rejects = self._general(frames, rest.tolist(), over, window, base, rows, now_ns)
            columns = merged(columns, rows.columns())
            arena = rows.texts()
        readings = ReadingBatch(
            n=len(columns["series"]),
            **columns,
            buffer=frames.buffer,
            arena=arena,
            connection=frames.connection,
            received_ns=frames.received_ns,
        )
        undecodable = sum(reject.readings == 0 for reject in rejects)
        decoded = Decoded(readings, rejects, frames.n, undecodable, frames.n - len(rest))
        for session in self._sessions:
            decoded.publications += session.publications(now_ns)
            decoded.gaps += session.take_gaps()
        return decoded

    def _over_rate(self, frames: FrameBatch, now_ns: int) -> dict[int, int]:
        """Frame → device of what is over a rate; the scan leaves these frames."""
        assert self._rates is not None
        device = self._device[: frames.n].copy()
        for frame in np.flatnonzero(device < 0).tolist():
            device[frame] = self._sender(frames.topic(frame))
        over = np.flatnonzero(self._rates.over(device, now_ns))
        found = dict(zip(over.tolist(), device[over].tolist(), strict=True))
        self._device[over] = -1
        return found

    def _sender(self, topic: bytes) -> int:
        """The device of a topic that is not in the table, if it is registered there; else −1."""
        found = self._routes.find(topic)
        device = None if found is None else self._lookup.find_id(found[1].device)
        return (
            -1 if found is None or device is None or self._misplaced(found[1], device) else device
        )

    def _misplaced(self, place: Place, device: int) -> bool:
        """Whether a topic names another org or site than the registry, where it names them."""
        registered = self._lookup.place(device)
        return place.org not in ("", registered.org) or place.site not in ("", registered.site)

    def _scan(self, frames: FrameBatch, window: Window, base: int) -> tuple[Columns, I32]:
        """The rows of the fast path, and the numbers of the frames that it left."""
        # `"":1,` is the shortest reading of a values object. Pages not written to cost nothing.
        room = frames.n + len(frames.buffer) // 5
        if len(self._columns["series"]) < room:
            self._columns = {name: np.empty(room, dtype) for name, dtype in DTYPES.items()}
        tables, layouts, limits = self._tables, self._layouts, self._limits
        if not self._fast:
            everything: I32 = np.arange(frames.n, dtype=np.int32)
            return self._first(0), everything
        n, left = scan(
            frames.n,
            frames.buffer,
            frames.payload_off,
            frames.payload_len,
            frames.flags,
            self._device,
            tables.series_start,
            tables.kind,
            tables.lines,
            tables.bounds,
            tables.blob,
            layouts.plans,
            layouts.literals,
            layouts.layout_of,
            layouts.following,
            layouts.memory,
            layouts.scratch,
            limits.max_payload_bytes,
            limits.max_readings_per_message,
            window.oldest_ns,
            window.newest_ns,
            window.receive_ns or 0,
            window.receive_ns is not None,
            base,
            self._fields,
            self._numbers,
            self._rest,
            *self._columns.values(),
        )
        return self._first(n), self._rest[:left]

    def _first(self, n: int) -> Columns:
        """The first `n` rows of the columns."""
        columns = self._columns
        return dict(zip(columns, map(itemgetter(slice(n)), columns.values()), strict=True))

    def _window(self, frames: FrameBatch, now_ns: int, clock_suspect: bool) -> Window:
        window = Window(_EARLIEST, _LATEST, None)
        if self._receive_time:
            window.receive_ns = frames.received_ns or now_ns
        if not clock_suspect:
            window.newest_ns = min(now_ns + self._max_future_ns, _LATEST)
            if self._max_age_ns:
                window.oldest_ns = max(now_ns - self._max_age_ns, _EARLIEST)
        return window

    def _general(
        self,
        frames: FrameBatch,
        numbers: list[int],
        over: dict[int, int],
        window: Window,
        base: int,
        rows: Rows,
        now_ns: int,
    ) -> list[Reject]:
        """Decode these frames one by one, in order."""
        self._lookup.trim()
        reader = MessageReader(self._lookup, self._guests, self._limits, window, rows)
        rejects: dict[int, Reject] = {}
        messages: list[tuple[Message, Reason | None]] = []
        payloads: list[bytes] = []  # of our JSON
        for frame in numbers:
            retained = RETAINED if frames.flags[frame] & FRAME_RETAIN else 0
            message = Message(
                frame,
                int(self._device[frame]),
                base | retained,
                frames.topic(frame),
                frames.payload(frame),
            )
            reason = None
            if frame in over:
                message.device, reason = over[frame], Reason.OVER_RATE
            elif message.device < 0:
                reason = self._find_device(message)
            data = message.payload
            cut = frames.flags[frame] & FRAME_CUT
            if cut or len(data) > self._limits.max_payload_bytes:
                reason = reason or Reason.TOO_LARGE
            elif data.startswith(MAGIC) and reason is None and message.route is None:
                inflated = self._inflated(data)
                data, reason = (b"", inflated) if isinstance(inflated, Reason) else (inflated, None)
            session = message.route is not None and message.route.is_session
            if reason is None or (session and reason is not Reason.TOO_LARGE):
                messages.append((message, reason))
                if message.route is None:
                    payloads.append(data)
            else:
                rejects[frame] = reader.whole(message, reason)
        documents = iter(parse_payloads(payloads))
        received_ns = frames.received_ns or now_ns
        for message, reason in messages:
            reject = (
                reader.read(message, next(documents))
                if message.route is None
                else self._by_format(reader, message, message.route, reason, received_ns)
            )
            if reject is not None:
                rejects[message.frame] = reject
        self._publish()
        return [rejects[frame] for frame in sorted(rejects)]

    def _by_format(
        self,
        reader: MessageReader,
        message: Message,
        route: Route,
        reason: Reason | None,
        received_ns: int,
    ) -> Reject | None:
        """reason: why the device's readings cannot be taken, of a message that is read all the same."""
        wanted = self._receive_time if route.receive_time is None else route.receive_time
        # A ns apart, or two messages of one flush would be two values for one identity.
        receive_ns = received_ns + message.frame if wanted else None
        data = self._inflated(message.payload)
        if isinstance(data, Reason):
            return reader.whole(message, reason or data)
        try:
            payload = Payload(data, message.topic.decode(), message.metric, receive_ns)
            readings = route.format.read(payload)
        except Exception:  # of a format that is not ours, too: it costs this message, not the shard
            return reader.whole(message, reason or Reason.MALFORMED)
        readings = route.named(readings)
        if reason is not None:
            return reader.whole(message, reason) if readings else None
        return reader.take(message, readings, receive_ns)

    def _inflated(self, payload: bytes) -> bytes | Reason:
        try:
            return inflate(payload, self._limits.max_payload_bytes)
        except TooLarge:
            return Reason.TOO_LARGE
        except ValueError:
            return Reason.MALFORMED

    def _find_device(self, message: Message) -> Reason | None:
        """Fill `message` for a topic that is not in the table, or say why its device cannot be."""
        found = self._routes.find(message.topic)
        if found is None:
            return Reason.BAD_TOPIC
        message.route, place = found
        message.metric = place.metric
        device = self._lookup.find_id(place.device)
        if device is None:
            device = (
                self._guests.add(place.org, place.site, place.device)
                if self._guests is not None
                else None
            )
            if device is None:
                return Reason.UNKNOWN_DEVICE
            self._lookup.add_device(device, place)
        message.device = device
        if self._misplaced(place, device):
            return Reason.WRONG_PLACE
        return None if self._lookup.enabled(device) else Reason.DEVICE_DISABLED

    def _publish(self) -> None:
        """Make the guests and metrics of this batch known to the next one."""
        if self._guests is None:
            return
        directory = self._guests.publish()
        if directory is not self.directory:
            self.directory = directory
            self._limit_rates()
            self._lookup.replace(directory)
            self._topics.extend(directory)
            self._tables = Tables.of(directory)
            self._layouts = Layouts(directory.n_devices)
