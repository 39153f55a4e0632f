"""An alert's history, from the running gateway or the lake, and the readings before it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from greenlang_iot.model.errors import GatewayError, InputError

if TYPE_CHECKING:
    from greenlang_iot.alerts.explained import Before
    from greenlang_iot.settings.model import Settings

HOUR_NS = 3_600_000_000_000


def find(settings: "Settings", lake: Path, alert_id: str) -> list[dict[str, Any]]:
    """The transitions of an alert, oldest first. GatewayError where nobody knows it."""
    from greenlang_iot.cli.gateway_client import ask

    try:
        status, answer = ask(settings, "GET", f"/api/v1/alerts/{quote(alert_id, safe='')}")
        if status == 200:
            history: list[dict[str, Any]] = answer["transitions"]
            return history
        why = "the running gateway does not know it"
    except (GatewayError, InputError) as error:
        why = str(error).rstrip(".?")
    rows = _ask_lake(lake, _transitions(alert_id))
    if not rows:
        raise GatewayError(f"there is no alert {alert_id} in the lake, and {why}")
    return rows


def before(lake: Path, opening: dict[str, Any]) -> "Before | None":
    """What the lake has of the series in the hour before the alert; None where it has nothing."""
    from greenlang_iot.alerts.explained import Before

    if not opening["metric"]:
        return None
    device, metric = (opening[key].replace("'", "''") for key in ("device", "metric"))
    opened = int(opening["opened"])
    rows = _ask_lake(
        lake,
        "SELECT count(*) AS n, median(value) AS median, min(value) AS least, max(value) AS most "  # noqa: S608
        f"FROM readings WHERE device = '{device}' AND metric = '{metric}' "
        f"AND ts < {opened:d} AND ts >= {opened - HOUR_NS:d}",
    )
    if not rows or not rows[0]["n"]:
        return None
    row = rows[0]
    return Before(row["n"], row["median"], row["least"], row["most"])


def _transitions(alert_id: str) -> str:
    quoted = alert_id.replace("'", "''")
    return f"SELECT * FROM alerts WHERE alert_id = '{quoted}' ORDER BY number"  # noqa: S608 (quoted)


def _ask_lake(lake: Path, sql: str) -> list[dict[str, Any]]:
    """Rows; none where there is no lake."""
    from greenlang_iot.sinks.lake_query import LakeReader

    try:
        rows: list[dict[str, Any]] = LakeReader(lake).query(sql).to_pylist()
    except (GatewayError, InputError):
        return []
    return rows
