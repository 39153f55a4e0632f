"""Reload without restart: files → checked settings and registry → every shard, or nothing at all."""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import structlog

from greenlang_iot.alerts.rule_file import RuleSet
from greenlang_iot.devices.columns import Columns
from greenlang_iot.model.directory import Directory
from greenlang_iot.model.errors import InputError
from greenlang_iot.observe.audit import Audit
from greenlang_iot.observe.logs import configure
from greenlang_iot.runtime.layout import ShardPlan, owned
from greenlang_iot.runtime.memory import SharedRegistry, give_back
from greenlang_iot.runtime.supervisor import Supervisor
from greenlang_iot.settings.model import AlertSettings, MqttSettings, Settings
from greenlang_iot.settings.reload import reload_settings
from greenlang_iot.settings.secrets import secrets as secrets_of

log = structlog.get_logger(__name__)

Read = Callable[[], tuple[Settings, Directory, RuleSet]]
"""Settings, registry and alert rules as their files say now. Raises InputError."""

_SITES_SAID = 20


class Running(Protocol):
    """What holds in the parent, and is replaced by a reload."""

    settings: Settings
    directory: Directory
    plans: list[ShardPlan]
    shared: SharedRegistry


class Reloader:
    """Serves SIGHUP (`soon`) and POST /-/reload (`reload`); one at a time, each in the audit log."""

    def __init__(
        self,
        running: Running,
        supervisor: Supervisor,
        read: Read | None,
        audit: Audit,
        configure_alerts: Callable[[AlertSettings, RuleSet], None],
    ) -> None:
        self._audit = audit
        self._configure_alerts = configure_alerts
        self._running = running
        self._supervisor = supervisor
        self._read = read
        self._one_at_a_time = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._again = False

    def soon(self) -> None:
        """Reload in the background; the log says how it went. Asked meanwhile, it is done once more: files
        may have changed since they were read."""
        self._again = True
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._until_newest())

    async def idle(self) -> None:
        """Return when no reload that `soon` began is under way."""
        if self._task is not None:
            await self._task

    async def _until_newest(self) -> None:
        while self._again:
            self._again = False
            await self.reload("SIGHUP")

    async def reload(self, actor: str) -> tuple[bool, dict[str, Any]]:
        """(done, what was done and what needs a restart); (False, reasons) leaves all as it was."""
        done, document = await self._reload()
        try:
            self._audit.record("reload", actor, "done" if done else "refused", **document)
        except OSError as error:
            log.error("the audit log was not written", action="reload", actor=actor, why=str(error))
        return done, document

    async def _reload(self) -> tuple[bool, dict[str, Any]]:
        if self._read is None:
            return False, {"reasons": ["this gateway was not started from files"]}
        async with self._one_at_a_time:
            try:
                wanted, registry, rules = await asyncio.to_thread(self._read)
            except InputError as error:
                reasons = list(error.problems) or [str(error)]
                log.error("reload refused: the old settings go on", reasons=reasons[:_SITES_SAID])
                return False, {"reasons": reasons}
            try:
                columns, registry = await asyncio.to_thread(self._running.shared.put, registry)
            except OSError as error:
                why = f"the registry's columns cannot be written below data_dir: {error.strerror}"
                log.error("reload refused: the old settings go on", reasons=[why])
                return False, {"reasons": [why]}
            done = await self._apply(wanted, columns, registry, rules)
            self._running.shared.drop_older()
            give_back()
            return True, done

    async def _apply(
        self, wanted: Settings, columns: Columns, registry: Directory, rules: RuleSet
    ) -> dict[str, Any]:
        running = self._running
        change = reload_settings(running.settings, wanted)
        restart = [f"setting {name}" for name in change.needs_restart]
        restart += _unsubscribed(running.plans, registry, running.settings.mqtt)
        running.settings, running.directory = change.settings, registry
        self._configure_alerts(change.settings.alerts, rules)
        configure(change.settings.log, secrets=secrets_of(change.settings))
        answers = await self._supervisor.reload(columns, change.settings, rules)
        restart += [f"shard {i}: {a.error}" for i, a in answers.items() if a.error]
        counts = [a for a in answers.values() if not a.error]
        document = {
            "devices": {
                "registered": registry.n_devices,
                "added": max((a.added for a in counts), default=0),
                "removed": max((a.removed for a in counts), default=0),
            },
            "alert_rules": len(rules.rules),
            "settings": list(change.applied),
            "needs_restart": restart,
        }
        (log.warning if restart else log.info)("reloaded", **document)
        return document


def _unsubscribed(plans: list[ShardPlan], registry: Directory, settings: MqttSettings) -> list[str]:
    """Filters do not move: what no connection subscribes to waits for a restart."""
    heard = np.zeros(registry.n_devices, np.bool_)
    for plan in plans:
        heard |= owned(plan, registry, settings, shards=1)  # a share hears every device
    places: dict[str, int] = {}
    for d in np.flatnonzero(~heard).tolist():
        place = f"{registry.org[int(registry.org_of[d])]}/{registry.site[int(registry.site_of[d])]}"
        places[place] = places.get(place, 0) + 1
    said = [
        f"site {place}: {count:,} device{'' if count == 1 else 's'} not subscribed to"
        for place, count in sorted(places.items())
    ]
    more = len(said) - _SITES_SAID
    return said if more <= 0 else [*said[:_SITES_SAID], f"{more:,} more sites"]
