"""What a shard is told at its start. Light to import: the parent makes it."""

from dataclasses import dataclass
from pathlib import Path

from greenlang_iot.alerts.rule_file import NO_RULES, RuleSet
from greenlang_iot.devices.columns import Columns
from greenlang_iot.model.directory import Directory
from greenlang_iot.runtime.layout import ConnectionPlan, ShardPlan
from greenlang_iot.settings.model import Settings


@dataclass(slots=True, frozen=True)
class ShardSpec:
    """Everything a shard needs, picklable. `retired`: client ids of an earlier layout to drain here.

    registry: a file, so that nothing of its size goes through the pipe (in tests, the columns themselves).
    peers: of the other shards, their counters and how many connections they want. supervisor: process with which the shard ends, at once; 0: none.
    """

    index: int
    settings: Settings
    registry: Columns | Directory
    plan: ShardPlan
    counters: Path
    retired: tuple[ConnectionPlan, ...] = ()
    supervisor: int = 0
    rules: RuleSet = NO_RULES
    peers: tuple[tuple[Path, int], ...] = ()
