"""Rule files: what is read, and every mistake with its line."""

import pytest

from greenlang_iot.alerts.rule_file import parse
from greenlang_iot.model.errors import InputError


def problems(text: str) -> list[str]:
    with pytest.raises(InputError) as raised:
        parse(text, "rules.yaml")
    return list(raised.value.problems)


def rule(*lines: str) -> str:
    return "version: 1\nrules:\n  - name: one\n" + "".join(f"    {line}\n" for line in lines)


def test_a_rule_with_everything() -> None:
    text = rule(
        "match: {site: north*, type: boiler, metric: temperature}",
        "range: {above: 90, clear: 85}",
        "for: 2m",
        "cooldown: 1h",
        "severity: critical",
        "summary: '{device} is hot: {value}'",
        "labels: {team: heating}",
        "runbook: https://example.com/hot",
        "group: {devices: 10, window: 5m}",
    )
    (found,) = parse(text, "rules.yaml").rules
    assert (found.kind, found.for_, found.cooldown) == ("range", 120.0, 3600.0)
    assert (found.match.site, found.match.device) == ("north*", "*")
    assert found.group is not None
    assert found.group.window == 300.0


@pytest.mark.parametrize(
    ("lines", "line", "words"),
    [
        (("rnage: {above: 5}",), 4, "rnage: there is no such key"),
        (("range: {above: 5}", "for: soon"), 5, "for: expected a duration"),
        (("range: {above: 5}", "silence: 5m"), 3, "has range and silence"),
        (("severity: critical",), 3, "has no condition"),
        (("range: {}",), 4, "give above, below or both"),
        (("range: {above: 5, clear: 6}",), 4, "clear lies above"),
        (("range: {below: 5, clear: 4}",), 4, "clear lies below"),
        (("range: {below: 5, above: 4}",), 4, "nothing would be normal"),
        (("range: {above: hot}",), 4, "range.above"),
        (("range: {above: .nan}",), 4, "range.above"),
        (("silence: 0",), 4, "silence"),
        (("expression: a >",), 4, "cannot be read"),
        (("expression: {holds: a > 1, clear: b}",), 4, "a number, not a condition"),
        (("range: {above: 5}", "severity: fatal"), 5, "severity"),
        (("range: {above: 5}", "labels: {'a b': x}"), 5, "labels"),
        (("range: {above: 5}", "range: {above: 6}"), 4, "given twice"),
    ],
)
def test_a_mistake_is_said_with_its_line(lines: tuple[str, ...], line: int, words: str) -> None:
    (found,) = problems(rule(*lines))
    assert found.startswith(f"rules.yaml:{line}: rules[0]")
    assert words in found


def test_every_mistake_at_once() -> None:
    text = rule("range: {above: 1}", "for: x") + "  - name: spike\n    silence: 1m\n"
    text += "  - name: one\n    silence: 1m\n  - 7\n"
    assert [p.split(" ")[0] for p in problems(text)] == [
        "rules.yaml:5:",
        "rules.yaml:6:",
        "rules.yaml:8:",
        "rules.yaml:10:",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "rules.yaml:1: "),
        ("version: 2\nrules: []", "rules.yaml:1: version"),
        ("version: 1\nrules: {", "not YAML"),
        ("version: 1\nrules: &a [*a]", "rules.yaml:2: not YAML"),
        ("version: 1\nrules: []\nmore: 1", "rules.yaml:3: more: there is no such key"),
    ],
)
def test_what_is_no_rule_file(text: str, words: str) -> None:
    assert words in problems(text)[0]


def test_aliases_do_not_explode() -> None:
    lines = ["version: 1", "rules:", "  - &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"  - &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 7)]
    assert "too deep, or too much" in problems("\n".join(lines))[0]
