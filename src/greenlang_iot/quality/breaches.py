"""Figures below their targets become alerts of the rule `quality`, resolved when they are back.

A device of a site that misses a target as a whole gets no alert of its own for it: that is one incident.
"""

from greenlang_iot.alerts.episode import Scope
from greenlang_iot.alerts.wide import Standing, WideAlerts
from greenlang_iot.alerts.words import duration
from greenlang_iot.model.outcomes import Transition
from greenlang_iot.quality.figures import FIGURES, Scopes, targets
from greenlang_iot.settings.model import QualitySettings

RULE = "quality"


def judge(
    alerts: WideAlerts,
    sites: Scopes,
    devices: Scopes,
    settings: QualitySettings,
    *,
    whole: bool = True,
) -> list[Transition]:
    """What opens and what resolves with these windows; a scope that is gone resolves, too.

    whole: every shard left its window. Else of what is not in these windows nothing is known: it stays.
    """
    result: list[Transition] = []
    missed: set[tuple[Scope, str]] = set()
    wanted = {"none": (), "sites": (sites,), "devices": (sites, devices)}[settings.alerts]
    for scopes in wanted:
        below, figures = scopes.below(settings), scopes.figures()
        for row, column in zip(*(axis.tolist() for axis in below.nonzero()), strict=True):
            site: Scope = (scopes.org[row], scopes.site[row], "", "")
            if (site, FIGURES[column]) in missed and scopes is devices:
                continue
            scope: Scope = (*site[:2], scopes.device[row], "")
            missed.add((scope, FIGURES[column]))
            value, target = float(figures[row, column]), targets(settings)[column]
            result += alerts.stand(_standing(scope, FIGURES[column], value, target, scopes))
    known = set() if whole else _scopes(sites) | _scopes(devices)
    for scope, figure in alerts.open(RULE):
        if (scope, figure) not in missed and (whole or scope in known):
            summary = f"{figure} of {_who(scope)} does not miss its target any more"
            result += alerts.fall(RULE, scope, figure, sites.to_ns, summary)
    return result


def _scopes(scopes: Scopes) -> set[Scope]:
    names = zip(scopes.org, scopes.site, scopes.device, strict=True)
    return {(org, site, device, "") for org, site, device in names}


def _standing(scope: Scope, figure: str, value: float, target: float, scopes: Scopes) -> Standing:
    window = duration(scopes.to_ns - scopes.from_ns)
    summary = (
        f"{figure} of {_who(scope)} was {value:.1%} in the last {window}; "
        f"its target is {target:.1%}"
    )
    at_ns = scopes.to_ns
    return Standing(RULE, scope, figure, at_ns, summary, "warning", value, target)


def _who(scope: Scope) -> str:
    return f"device {scope[2]}" if scope[2] else f"site {scope[1]}"
