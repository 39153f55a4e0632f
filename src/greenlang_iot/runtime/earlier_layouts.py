"""Client ids of earlier layouts of the shards: the broker still keeps sessions for them, which have to be drained."""

import json
from collections.abc import Sequence
from pathlib import Path

import structlog

from greenlang_iot.model.errors import GatewayError
from greenlang_iot.runtime.layout import ConnectionPlan, ShardPlan
from greenlang_iot.spool.files import OS_FILES, replace_durably

log = structlog.get_logger(__name__)


def retired_connections(
    data_dir: Path, plans: Sequence[ShardPlan], brokers: Sequence[str]
) -> list[ConnectionPlan]:
    """Connections that an earlier start had and this one has not; `layout.json` remembers both.

    One is forgotten once its shard has called `mark_drained`, or when its broker is not in the settings any
    more. brokers: names, by index. Raises GatewayError where the disk fails.
    """
    path = data_dir / "layout.json"
    try:
        known = _known(path, brokers)
        for client_id in list(known):
            marker = _marker(data_dir, client_id)
            if marker.exists():
                marker.unlink()
                del known[client_id]
    except OSError as error:
        raise GatewayError(
            f"{error.filename or path} cannot be read or moved ({error.strerror}), so that the sessions of an earlier "
            "layout are not known: see to the disk, or choose another data_dir."
        ) from error
    current = {c.client_id: (brokers[c.broker], c.filters) for p in plans for c in p.connections}
    known |= current
    document = [
        {"client_id": client_id, "broker": broker, "filters": filters}
        for client_id, (broker, filters) in known.items()
    ]
    try:
        replace_durably(OS_FILES, path, json.dumps(document, indent=1).encode())
    except OSError as error:
        raise GatewayError(
            f"{path} cannot be written ({error.strerror}): make room there, or choose another data_dir."
        ) from error
    return [
        ConnectionPlan(brokers.index(broker), client_id, filters)
        for client_id, (broker, filters) in known.items()
        if client_id not in current
    ]


def mark_drained(data_dir: Path, client_id: str) -> None:
    """Its session has ended at the broker: the next start need not retire it again. OSError."""
    _marker(data_dir, client_id).touch()


def _marker(data_dir: Path, client_id: str) -> Path:
    return data_dir / "run" / f"retired-{client_id}"


def _known(path: Path, brokers: Sequence[str]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Client id → (broker, filters), of every layout that is not drained yet."""
    try:
        return {
            item["client_id"]: (item["broker"], tuple(item["filters"]))
            for item in json.loads(path.read_text())
            if item["broker"] in brokers
        }
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        log.error(
            "the earlier layout is unreadable: if it was another one, end its sessions at the broker",
            file=str(aside),
            why=str(error),
        )
        return {}
