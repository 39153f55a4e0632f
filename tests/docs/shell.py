"""Runs the blocks of a page as a reader would: one shell, and the terminals beside it."""

import os
import pty
import re
import select
import signal
import subprocess
import threading
import time
from pathlib import Path

from tests.docs.blocks import Block, fits

_PATIENCE = 180.0
"""Seconds that a block may take, and that a terminal may need to say what is waited for."""
_WIDTH = 80
"""Columns that what a person reads keeps to; JSON on one line does not."""
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Mistake(Exception):
    """A block does not do what its page says."""


class Terminal:
    """A command in a pseudo-terminal of 80 columns, as in a second window."""

    def __init__(self, command: str, folder: Path, environment: dict[str, str]) -> None:
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.chdir(folder)
            os.execvpe("bash", ["bash", "-c", command], environment | {"COLUMNS": "80"})
        self._said = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                part = os.read(self._fd, 65_536)
            except OSError:  # the last process of the terminal has ended
                return
            if not part:
                return
            self._said += part

    @property
    def text(self) -> str:
        """What it shows so far, without colours and cursor movements."""
        lines = _ESCAPES.sub("", self._said.decode(errors="replace")).replace("\r\n", "\n")
        return "\n".join(line.rpartition("\r")[2] for line in lines.split("\n"))

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + _PATIENCE
        while text not in self.text:
            if time.monotonic() > deadline or not self._reader.is_alive():
                raise Mistake(f"{text!r} did not appear in this terminal:\n{self.text}")
            time.sleep(0.02)

    def interrupt(self) -> int:
        """Ctrl-C, as the keyboard sends it; the exit status."""
        os.write(self._fd, b"\x03")
        return self._end()

    def close(self) -> None:
        """Whatever it does: it ends."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._pid, number)
            except ProcessLookupError:
                return
            if self._end(5.0) != -1:
                return

    def _end(self, patience: float = 30.0) -> int:
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            if pid:
                self._reader.join(5)
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        return -1


class Shell:
    """One bash for a page's blocks, in order; state stays from block to block."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment | {"COLUMNS": "80"},
            text=True,
            start_new_session=True,
        )
        self._terminals: dict[str, Terminal] = {}
        self._shown = ""

    def run(self, block: Block) -> None:
        """Do what a block says. Mistake where it fails, or prints something else."""
        kind, _, rest = block.marker.partition(" ")
        if block.not_run is not None:
            self._shown = ""
        elif block.language == "sh" and kind == "terminal":
            name, _, until = rest.partition(" until ")
            here = self._commands("pwd").strip()
            self._terminals[name] = Terminal(block.text, Path(here), self.environment)
            if until:
                self._terminals[name].wait_for(until)
        elif block.language == "sh":
            self._shown = self._commands(block.text)
        elif block.language == "output" and kind == "Ctrl-C":
            self._interrupt(rest, block)
        elif block.language == "output" and block.marker.startswith("output of "):
            terminal = self._terminals[block.marker.removeprefix("output of ")]
            deadline = time.monotonic() + _PATIENCE
            while not fits(block.text, terminal.text) and time.monotonic() < deadline:
                time.sleep(0.02)  # what the page shows may be on its way there
            self._compare(block, terminal.text)
        elif block.language == "output":
            self._compare(block, self._shown)
            wide = [x for x in self._shown.splitlines() if len(x) > _WIDTH and x[0] != "{"]
            if wide:
                raise Mistake(f"wider than {_WIDTH} columns: {wide}")

    def _interrupt(self, name: str, block: Block) -> None:
        terminal = self._terminals.pop(name)
        before = len(terminal.text)
        status = terminal.interrupt()
        if status != 0:
            raise Mistake(f"Ctrl-C: exit status {status}\n{terminal.text}")
        self._compare(block, terminal.text[before:].removeprefix("^C").lstrip("\n"))

    def _compare(self, block: Block, got: str) -> None:
        if not fits(block.text, got):
            raise Mistake(f"the page shows\n{block.text}\nand this came\n{got}")

    def _commands(self, text: str) -> str:
        """What the commands print; Mistake where one fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        end = f"--end-of-block-{time.monotonic_ns()}--"
        script = f"set -e\n{text}\n{{ set +e; }} 2>/dev/null\necho {end}\n"
        self._process.stdin.write(script)
        self._process.stdin.flush()
        said = b""
        deadline = time.monotonic() + _PATIENCE
        while end.encode() not in said:
            ready, _, _ = select.select([self._process.stdout], [], [], 0.5)
            if ready:
                part = os.read(self._process.stdout.fileno(), 65_536)
                if not part:
                    raise Mistake(f"a command failed; this came\n{said.decode(errors='replace')}")
                said += part
            elif time.monotonic() > deadline:
                raise Mistake(
                    f"took more than {_PATIENCE:.0f} s; this came\n{said.decode(errors='replace')}"
                )
        return said.decode(errors="replace").replace(end + "\n", "")

    def terminals(self) -> str:
        """What the terminals show."""
        return "".join(f"--- {name}\n{t.text[-2_000:]}\n" for name, t in self._terminals.items())

    def close(self) -> None:
        """End the shell, its background jobs and the terminals."""
        for terminal in self._terminals.values():
            terminal.close()
        try:
            os.killpg(self._process.pid, signal.SIGTERM)
        except ProcessLookupError:
            pass
        self._process.wait(10)
