"""The fenced blocks of a page, with the HTML comment that stands before each.

    ```sh        commands: run in order, in the page's folder
    ```output    what the commands before it print: `…` stands for anything, a line `…` for any lines
    ```yaml      settings of the gateway, unless a marker names another kind of file
    ```json      what its marker names: payload, reading, alert, dead letter, registry

Markers, each a comment on the line before the block:

    <!-- not run: WHY -->            only its syntax is checked (WHY: one of `REASONS`)
    <!-- terminal NAME [until TEXT] -->   runs beside the others, from now on; waits for TEXT in its output
    <!-- Ctrl-C NAME -->             interrupts that terminal; the output block is what it printed last
    <!-- output of NAME -->          the output block is compared with what that terminal has printed
"""

import re
from dataclasses import dataclass

REASONS = {
    "docker": "needs a Docker engine",
    "systemd": "needs systemd and root",
    "influxdb 2": "needs InfluxDB 2 and its command line",
    "example hosts": "names hosts of a site",
    "the repository": "needs the repository's address",
    "packages": "installs packages of the system",
    "long": "takes minutes, and `make` runs it elsewhere",
    "elsewhere": "is run where it is explained, or needs what another page sets up",
}
"""Why a block is not run."""
LANGUAGES = {"sh", "output", "yaml", "json", "python", "toml", "text", "flux", "sql", ""}
_BLOCK = re.compile(r"^( *)```([\w-]*)\n(.*?)^\1```$", re.M | re.S)
_MARKER = re.compile(r"^ *<!-- ([^\n]+) -->\s*\Z", re.M)


@dataclass(frozen=True)
class Block:
    """line: of the opening fence, from 1. marker: the comment before it, or empty."""

    page: str
    line: int
    language: str
    text: str
    marker: str

    @property
    def not_run(self) -> str | None:
        """Why it is not run, or None."""
        head, colon, why = self.marker.partition("not run: ")
        return why if colon and not head else None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str, text: str) -> list[Block]:
    """Every fenced block of a page, in order."""
    found = []
    for match in _BLOCK.finditer(text):
        before = text[: match.start()]
        marker = _MARKER.search(before.rstrip(" ").removesuffix("\n"))
        indent, language, body = match.groups()
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        found.append(
            Block(
                page,
                before.count("\n") + 1,
                language,
                "\n".join(lines) + "\n",
                marker[1] if marker else "",
            )
        )
    return found


def fits(wanted: str, got: str) -> bool:
    """Whether an output is what an output block shows."""
    if wanted.splitlines() == got.splitlines():
        return True
    pattern = ""
    for line in wanted.strip("\n").splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*"
        else:
            parts = re.split(r" *… *", line.rstrip())
            pattern += r".*".join(map(re.escape, parts)) + r"[ \t]*\n"
    return re.fullmatch(pattern, got.strip("\n") + "\n") is not None
