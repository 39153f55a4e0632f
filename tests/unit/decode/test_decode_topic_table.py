"""The topics of all devices, written by a kernel, are those that the template makes of each."""

from dataclasses import replace

import pytest
from tests.fakes.directory import directory, texts

from greenlang_iot.decode.topics import TopicTable
from greenlang_iot.formats.topics import TopicTemplate

NAMES = ["d0", "Zähler", "x" * 128, "a.b-c:d", "e"]


@pytest.mark.parametrize(
    "template",
    [
        "greenlang/{org}/{site}/{device}/telemetry",
        "{device}",
        "{site}/{device}",
        "a/{device}/{org}",
    ],
)
@pytest.mark.parametrize("known", [0, 2, 5])
def test_topics_are_those_of_the_template(template: str, known: int) -> None:
    """known: devices of the first Directory; the others come later, as guests do."""
    whole = replace(directory(5, sites=3, names=NAMES), site=texts(["s", "süd", "t"]))
    part = replace(
        whole,
        device=texts(NAMES[:known]),
        **{name: getattr(whole, name)[:known] for name in ("org_of", "site_of", "enabled")},
    )
    made = TopicTemplate(template)
    table = TopicTable(part, made, room=5 - known)
    table.extend(whole)
    assert [
        table.blob[table.off[d] : table.off[d + 1]].tobytes() for d in range(whole.n_devices)
    ] == [
        made.topic(whole.org.raw(0), whole.site.raw(int(whole.site_of[d])), NAMES[d].encode())
        for d in range(whole.n_devices)
    ]
