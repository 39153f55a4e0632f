"""The stand-in's own parser, on lines whose reading is beyond doubt."""

import pytest
from tests.fakes.lineprotocol import ParseError, parse


def test_a_whole_line() -> None:
    point = parse(r'a\ b\,c,t\=1=x\ y,u=z f\,1=1.5,s="a, \"b\" = \\",i=7i,b=t -12')
    assert point.measurement == "a b,c"
    assert point.tags == {"t=1": "x y", "u": "z"}
    assert point.fields == {"f,1": 1.5, "s": 'a, "b" = \\', "i": 7, "b": True}
    assert point.time == -12
    assert [type(value) for value in point.fields.values()] == [float, str, int, bool]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "missing fields"),
        (",a=b v=1", "missing measurement"),
        ("m,=b v=1", "missing tag key"),
        ("m,a v=1", "missing tag value"),
        ("m =1", "missing field key"),
        ('m v="open', "unbalanced quotes"),
        ("m v=1,", "missing field key"),
        ("m v=1 1 1", "bad timestamp"),
    ],
)
def test_what_is_no_line(line: str, words: str) -> None:
    with pytest.raises(ParseError) as raised:
        parse(line)
    assert str(raised.value) == words
