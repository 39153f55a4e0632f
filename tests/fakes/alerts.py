"""Alert transitions as a shard writes them into its outbox."""

from dataclasses import replace
from typing import Any

from greenlang_iot.model.outcomes import Transition

SECOND = 1_000_000_000
T0 = 1_800_000_000 * SECOND


SPIKE = Transition(
    alert_id="a1",
    number=1,
    state="open",
    rule="spike",
    severity="warning",
    org="acme",
    site="north",
    device="d1",
    metric="temperature",
    opened_ns=1_700_000_000_000_000_000,
    at_ns=1_700_000_000_123_000_000,
    value=41.5,
    expected=20.0,
    band=1.25,
    score=0.999,
    detector="spike",
    summary="temperature of d1 jumped",
)


def change(
    alert: str,
    number: int = 1,
    state: str = "open",
    *,
    at: float = 0.0,
    opened: float | None = None,
    site: str = "north",
    device: str = "d1",
    rule: str = "spike",
    severity: str = "warning",
    metric: str = "temperature",
) -> dict[str, Any]:
    """One document; times in seconds after T0, the opening by default that of number 1."""
    return Transition(
        alert_id=alert,
        number=number,
        state=state,
        rule=rule,
        severity=severity,
        org="acme",
        site=site,
        device=device,
        metric=metric,
        opened_ns=T0 + int((at if opened is None else opened) * SECOND),
        at_ns=T0 + int(at * SECOND),
        value=95.0,
        expected=21.0,
        band=2.0,
        score=0.9999,
        detector=rule,
        summary=f"{metric} of {device} read 95 Cel",
        type="sensor",
    ).as_dict()


def opened(number: int, summary: str = "a spike") -> Transition:
    """Alert `alert-NUMBER`, opened NUMBER ns after 1970."""
    return replace(
        SPIKE,
        alert_id=f"alert-{number}",
        site="site-0",
        device="d000",
        opened_ns=number,
        at_ns=number,
        summary=summary,
    )
