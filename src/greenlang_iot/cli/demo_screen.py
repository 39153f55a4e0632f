"""What the demo shows: live rates and the last alerts, then the reconciliation."""

import asyncio
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from greenlang_iot.cli.terminal import counted
from greenlang_iot.observe.catalog import cell
from greenlang_iot.observe.printable import printable

if TYPE_CHECKING:
    from greenlang_iot.model.directory import Directory
    from greenlang_iot.runtime.gateway import Gateway
    from greenlang_iot.runtime.summary import Summary
    from greenlang_iot.settings.model import Settings
    from greenlang_iot.simulate.reconcile import Reconciliation

SHOWN = 8
STYLES = {"critical": "bold red", "warning": "yellow", "info": "cyan"}


class Screen:
    """Draws on stderr, so that stdout stays for the summary. Plain lines where it is no terminal."""

    def __init__(
        self, settings: "Settings", written: Path, directory: "Directory", seconds: float
    ) -> None:
        self._settings = settings
        self._written = written
        self._directory = directory
        self._seconds = seconds
        self._console = Console(stderr=True)
        self._alerts: deque[dict[str, Any]] = deque(maxlen=SHOWN)
        self._ids: set[str] = set()
        self._started = 0.0
        self._last = (0.0, 0.0, 0.0)
        self._rates = (0.0, 0.0)

    def transition(self, item: dict[str, Any]) -> None:
        """An alert changed."""
        if item["state"] in ("open", "resolved"):
            self._alerts.append(item)
        if item["state"] == "open":
            self._ids.add(item["alert_id"])

    def begin(self, gateway: "Gateway") -> None:
        """The gateway is ready, and nothing has come yet."""
        self._started = time.monotonic()
        self._last = (self._started, 0.0, 0.0)
        broker = self._settings.mqtt.brokers[0]
        directory = self._directory
        sink = self._settings.sinks.kafka
        kafka = f"; all of it to Kafka at {sink.bootstrap_servers}" if sink.enabled else ""
        self._console.print(
            f"[bold]greenlang-iot demo[/]: {counted(directory.n_devices, 'device')}, "
            f"{directory.n_series:,} series, {counted(self._settings.runtime.shards, 'shard')}\n"
            f"  from  mqtts://{broker.host}:{broker.port} (embedded broker, TLS, QoS 1)\n"
            f"  to    the lake in {self._written.parent / 'data'}; alerts back to MQTT{kafka}\n"
            f"  see   http://{self._settings.admin.host}:{gateway.admin_port}/ in a browser"
            " · /status · /metrics · /readyz\n"
            f"  ask   greenlang-iot alerts list --config {self._written}\n"
            f"  for   {self._seconds:.0f} s; Ctrl-C ends it early",
            highlight=False,
            soft_wrap=True,
        )

    async def run(self, gateway: "Gateway") -> None:
        """Draw until cancelled."""
        if self._console.is_terminal:
            with Live(console=self._console, refresh_per_second=4, transient=True) as live:
                while True:
                    live.update(self._draw(gateway))
                    await asyncio.sleep(0.25)
        while True:
            await asyncio.sleep(5)
            self._measure(gateway)
            self._console.print(
                f"  {time.monotonic() - self._started:4.0f} s  {self._rates[0]:8,.0f} messages/s"
                f"  {self._rates[1]:8,.0f} readings/s  {len(self._ids):4} alerts opened",
                highlight=False,
            )

    def finish(self, published: int, done: "Summary", result: "Reconciliation") -> None:
        """Print the reconciliation."""
        # not the table's title, which is no wider than the table
        self._console.print("Reconciliation: the fleet's manifest against lake and dead letter")
        table = Table()
        table.add_column("what")
        table.add_column("count", justify="right")
        for name, value in (
            ("messages published (broker acknowledged)", published),
            ("messages acknowledged by the gateway", done.acked),
            ("readings promised", result.readings),
            ("readings found in the lake", result.found),
            ("missing", result.missing),
            ("with a wrong value", result.wrong_value),
            ("never published", result.unexpected),
            ("dead letters promised", result.rejects),
            ("dead letters missing", result.missing_rejects),
            ("dead letters unexpected", result.unexpected_rejects),
            ("duplicates recognised", done.duplicates),
            ("injected anomalies", result.anomalies),
            ("  without an alert", result.missed),
            ("alerts opened by the simulated devices", result.alerts),
            ("  that nothing injected explains", result.false_alerts),
        ):
            table.add_row(name, f"{value:,}")
        self._console.print(table)
        for name, words in (
            ("missing", "missing"),
            ("wrong_value", "with a wrong value"),
            ("unexpected", "never published"),
            ("missing_rejects", "dead letter missing"),
            ("unexpected_rejects", "dead letter unexpected"),
            ("missed", "injected, without an alert"),
            ("false_alerts", "explained by nothing injected"),
        ):
            for example in result.examples.get(name, ()):
                self._console.print(
                    f"  {words}: {printable(example)}", highlight=False, soft_wrap=True
                )
        if result.missed or result.false_alerts:
            self._console.print(
                "Alerts do not decide: one in some hundred thousand readings is an alert by chance, and a machine that "
                "is busy with other things holds the fleet up, so that devices are silent for moments.",
                highlight=False,
                soft_wrap=True,
            )
        verdict = (
            Text("RECONCILED", "bold green") if result.ok else Text("NOT RECONCILED", "bold red")
        )
        self._console.print(verdict)

    def _measure(self, gateway: "Gateway") -> None:
        now = time.monotonic()
        messages = sum(c.total("messages_received") for c in gateway.shards.values())
        readings = sum(c.total("readings_decoded") for c in gateway.shards.values())
        then, m, r = self._last
        if now - then > 0.9:
            self._rates = ((messages - m) / (now - then), (readings - r) / (now - then))
            self._last = (now, messages, readings)

    def _draw(self, gateway: "Gateway") -> Group:
        self._measure(gateway)
        counters = list(gateway.shards.values())

        def total(name: str) -> str:
            return f"{sum(c.total(name) for c in counters):,.0f}"

        grid = Table.grid(padding=(0, 2))
        for name, value in (
            ("messages/s", f"{self._rates[0]:,.0f}"),
            ("readings/s", f"{self._rates[1]:,.0f}"),
            ("messages", total("messages_received")),
            ("acknowledged", total("acks_sent")),
            ("in the lake", self._delivered(counters)),
            ("rejected readings", total("readings_rejected")),
            ("undecodable messages", total("messages_undecodable")),
            ("duplicates", total("readings_duplicate")),
            ("alerts opened", f"{len(self._ids)}"),
        ):
            grid.add_row(name, Text(value, "bold", justify="right"))
        alerts = Table.grid(padding=(0, 1))
        for item in list(self._alerts):
            style = "green" if item["state"] == "resolved" else STYLES.get(item["severity"], "")
            alerts.add_row(Text(item["state"], style), printable(item["summary"]))
        elapsed = time.monotonic() - self._started
        return Group(
            Panel(grid, title=f"{elapsed:.0f} of {self._seconds:.0f} s"),
            Panel(alerts, title="last alerts"),
        )

    def _delivered(self, counters: list[Any]) -> str:
        index = cell("sink_delivered_readings", sink="lake")
        return f"{sum(c.get(index) for c in counters):,.0f}"
