import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenlang_iot.simulate.broker_topics import (
    Options,
    Subscriptions,
    matches,
    split_share,
    valid_topic,
)

MATCHING = [
    ("a/b", "a/b", True),
    ("a/b", "a/c", False),
    ("a/b", "a/b/c", False),
    ("a/+", "a/b", True),
    ("a/+", "a", False),
    ("a/+", "a/", True),
    ("+/+", "/b", True),
    ("+", "/b", False),
    ("#", "a/b/c", True),
    ("a/#", "a", True),
    ("a/#", "ab", False),
    ("a/#", "a/b/c", True),
    ("a/+/c/#", "a/b/c", True),
    ("#", "$SYS/x", False),
    ("+/x", "$SYS/x", False),
    ("$SYS/#", "$SYS/x", True),
    ("a/$b/+", "a/$b/c", True),
    ("+/$b", "a/$b", True),
]

levels = st.sampled_from(["a", "b", "", "$s"])
topics = st.lists(levels, min_size=1, max_size=4).map("/".join).filter(bool)
filters = (
    st.tuples(st.lists(st.one_of(levels, st.just("+")), max_size=3), st.booleans())
    .map(lambda pair: "/".join([*pair[0], "#"] if pair[1] else pair[0]))
    .filter(bool)
)


@pytest.mark.parametrize(("pattern", "topic", "expected"), MATCHING)
def test_matching(pattern: str, topic: str, expected: bool) -> None:
    assert matches(pattern, topic) is expected


@given(st.lists(filters, max_size=6), topics)
def test_the_tree_agrees_with_matching_one_by_one(patterns: list[str], topic: str) -> None:
    subscriptions: Subscriptions[str] = Subscriptions()
    for pattern in patterns:
        subscriptions.add(pattern, pattern, Options(1))
    found = {session for session, _ in subscriptions.route(topic.encode()).sessions}
    assert found == {pattern for pattern in patterns if matches(pattern, topic)}
    for pattern in set(patterns):
        assert subscriptions.remove(pattern, pattern)
        assert not subscriptions.remove(pattern, pattern)
    assert subscriptions.route(topic.encode()).sessions == []


def test_overlapping_filters_give_one_copy_at_the_highest_qos() -> None:
    subscriptions: Subscriptions[str] = Subscriptions()
    assert subscriptions.add("a/#", "s", Options(0))
    assert subscriptions.add("a/+", "s", Options(1))
    assert not subscriptions.add("a/+", "s", Options(1))
    assert subscriptions.route(b"a/b").sessions == [("s", Options(1))]


def test_shared_groups_take_turns_and_prefer_who_is_present() -> None:
    subscriptions: Subscriptions[str] = Subscriptions()
    for session in ("x", "y", "z"):
        subscriptions.add("$share/g/a/+", session, Options(1))
    (group,) = subscriptions.route(b"a/b").groups
    picked = [group.pick(lambda _: True)[0] for _ in range(6)]
    assert sorted(picked[:3]) == ["x", "y", "z"]
    assert picked[3:] == picked[:3]
    assert {group.pick(lambda s: s == "y")[0] for _ in range(4)} == {"y"}
    assert group.pick(lambda _: False)[0] in {"x", "y", "z"}
    for session in ("x", "y", "z"):
        assert subscriptions.remove("$share/g/a/+", session)
    assert subscriptions.route(b"a/b").groups == []


@pytest.mark.parametrize(
    "pattern", ["", "a/#/b", "a#", "+a", "a/b+", "$share/g", "$share//a", "$share/g+/a", "a\0"]
)
def test_invalid_filters(pattern: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        split_share(pattern)


@pytest.mark.parametrize("topic", [b"", b"a/+", b"#", b"a\0", b"\xff"])
def test_invalid_topics(topic: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        valid_topic(topic)
