"""A line that counts up is written over by the next one, and its control characters stay themselves."""

import io
import sys

import pytest

from greenlang_iot.cli.terminal import ERASE_LINE, live, say


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_what_is_said_takes_the_place_of_the_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", screen := Screen())
    live("1 s")
    live("2 s")
    say("done")
    say("next")
    assert screen.getvalue() == f"{ERASE_LINE}1 s{ERASE_LINE}2 s{ERASE_LINE}done\nnext\n"


def test_no_live_line_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", file := io.StringIO())
    live("1 s")
    say("done\x1b[2J")
    assert file.getvalue() == "done\\x1b[2J\n"
