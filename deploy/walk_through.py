"""Run the commands of docs/deploy-ec2.md in order, as a reader would type them, and show what they print.

    python3 deploy/walk_through.py docs/deploy-ec2.md >transcript.txt

Fenced blocks with the info string `sh run` are run, command by command, in one shell that keeps folder and environment;
those with `sh run 2` (or another number) in a second terminal, which starts in the same state as every terminal: a
login's. A second terminal's block goes on in the background; at the next heading every terminal must be done. All other
blocks (`sh cloud`, `sh amazon`, tables, settings) are left out. The first command that fails ends the walk with exit
code 1; its line, its exit code and its output are the last lines. Needs nothing but Python 3.9 and bash.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HEAD, TAIL, WIDTH = 14, 10, 230  # lines of a long output, and characters of a line, that the transcript keeps
_SHOWN_HOSTS = ("127.0.0.1", "localhost", "github.com")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")
_UNDER_WAY = re.compile(r"\b(?!100)\d+%\|.*/s")  # of a progress bar
_URL = re.compile(r"\b(https?|git|ssh)://([^\s/\"'<>]+)")


@dataclass(frozen=True)
class Block:
    """A fenced block that is run: the line of the document it opens on, its terminal, its commands."""

    line: int
    terminal: int
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Heading:
    """A heading: every terminal must be done here."""

    text: str


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    command: str
    output: str
    code: int
    seconds: float


class WalkError(Exception):
    """A command failed; the transcript has ended with it."""


def parse(document: str) -> list[Block | Heading]:
    """Headings and the blocks to run, in order.

    Examples
    --------
    >>> parse("# A\\n```sh run\\ncd /tmp\\n```\\n```sh cloud\\nssh there\\n```\\n")
    [Heading(text='# A'), Block(line=2, terminal=1, commands=('cd /tmp',))]
    """
    steps: list[Block | Heading] = []
    fence: tuple[int, str] | None = None
    body: list[str] = []
    for number, line in enumerate(document.splitlines(), start=1):
        if not line.startswith("```"):
            if fence:
                body.append(line)
            elif line.startswith("#"):
                steps.append(Heading(line))
        elif fence is None:
            fence, body = (number, line[3:].strip()), []
        else:
            found = re.fullmatch(r"sh run(?: (\d+))?", fence[1])
            if found:
                steps.append(Block(fence[0], int(found[1] or 1), tuple(commands(body))))
            fence = None
    return steps


def commands(lines: Sequence[str]) -> Iterator[str]:
    """The commands of a block: a line each, or several that end in a backslash; without comments of a whole line."""
    command = ""
    for line in lines:
        if not command and (not line.strip() or line.lstrip().startswith("#")):
            continue
        command += line
        if line.endswith("\\"):
            command += "\n"
            continue
        yield command
        command = ""
    if command:
        yield command


def clean_lines(text: str) -> list[str]:
    """Output fit for a file: no control sequences, of a progress bar only its end, no names of hosts."""
    lines = [line.rstrip().rsplit("\r", 1)[-1] for line in _ANSI.sub("", text).rstrip("\n").split("\n")]
    lines = [_URL.sub(_hide_host, line) for line in lines if not _UNDER_WAY.search(line)]
    host = socket.gethostname()
    if host in ("", "localhost", "sor"):  # sor is this project's folder, too
        return lines
    return [re.sub(rf"(?<![\w/.-]){re.escape(host)}(?![\w/-])", "machine", line) for line in lines]


def clean(text: str) -> str:
    """The same as one text, with long lines cut and the middle of a long output left out."""
    lines = [line if len(line) <= WIDTH else f"{line[:WIDTH]} ..." for line in clean_lines(text)]
    if len(lines) > HEAD + TAIL + 1:
        left_out = len(lines) - HEAD - TAIL
        lines = [*lines[:HEAD], f"[{left_out} lines left out]", *lines[-TAIL:]]
    return "\n".join(lines)


def _hide_host(found: re.Match[str]) -> str:
    host = found[2].rsplit("@", 1)[-1].rsplit(":", 1)[0]
    return found[0] if host in _SHOWN_HOSTS else f"{found[1]}://HOST"


class Terminal:
    """One bash, fed command by command."""

    def __init__(self, number: int, folder: Path) -> None:
        self.number = number
        self._end = f"end-{secrets.token_hex(8)}"
        self._shell = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
        # newline: a carriage return is a progress bar's, not the end of a line
        self._output = io.TextIOWrapper(self._shell.stdout, encoding="utf-8", errors="replace", newline="\n")
        self._thread: threading.Thread | None = None
        self._done: list[Done] = []

    def run(self, command: str) -> Done:
        """Run one command to its end; it reads nothing."""
        begin = time.monotonic()
        words = f"{{ {command}\n}} </dev/null\nprintf '\\n%s %d\\n' {self._end} $?\n"
        self._shell.stdin.write(words.encode())
        self._shell.stdin.flush()
        output = []
        for line in self._output:
            if line.startswith(self._end):
                return Done(command, "".join(output).removesuffix("\n"), int(line.split()[1]), time.monotonic() - begin)
            output.append(line)
        return Done(command, "".join(output), self._shell.wait(), time.monotonic() - begin)  # the shell itself ended

    def run_all(self, block: Block) -> Iterator[Done]:
        """Run a block's commands up to the first that fails."""
        for command in block.commands:
            done = self.run(command)
            yield done
            if done.code:
                return

    def start(self, block: Block) -> None:
        """Run a block in the background."""
        self._thread = threading.Thread(target=lambda: self._done.extend(self.run_all(block)), daemon=True)
        self._thread.start()

    def finish(self) -> list[Done]:
        """Wait for what runs in the background, and take what it did."""
        if self._thread:
            self._thread.join()
        done, self._done, self._thread = self._done, [], None
        return done

    def close(self) -> None:
        """End the shell, when what it runs has ended."""
        self._shell.stdin.close()
        if self._thread:
            self._thread.join()
        self._output.close()
        self._shell.wait()


class Walk:
    """All terminals of a walk, opened when they are first used."""

    def __init__(self, folder: Path, out) -> None:
        self.folder, self.out = folder, out
        self.terminals: dict[int, Terminal] = {}

    def terminal(self, number: int) -> Terminal:
        """The terminal of that number."""
        if number not in self.terminals:
            self.terminals[number] = Terminal(number, self.folder)
        return self.terminals[number]

    def step(self, step: Block | Heading) -> None:
        """Take one step; WalkError if a command failed."""
        if isinstance(step, Heading):
            self.finish()
            self._write(f"\n{step.text}\n")
        elif step.terminal == 1:
            for done in self.terminal(1).run_all(step):
                self._show(done, 1)
        else:
            self._take(step.terminal)
            self.terminal(step.terminal).start(step)
            for command in step.commands:
                self._write(f"[terminal {step.terminal}] $ {command}")

    def finish(self) -> None:
        """Wait for all terminals."""
        for number in sorted(self.terminals):
            self._take(number)

    def close(self) -> None:
        """End all shells."""
        for terminal in self.terminals.values():
            terminal.close()

    def _take(self, number: int) -> None:
        for done in self.terminal(number).finish():
            self._show(done, number)

    def _show(self, done: Done, number: int) -> None:
        where = "" if number == 1 else f"[terminal {number}] "
        took = f"    # {done.seconds:.0f} s" if done.seconds >= 2 else ""
        self._write(f"{where}$ {done.command}{took}")
        if output := clean(done.output).strip("\n"):
            self._write(output)
        if done.code:
            self._write(f"{where}FAILED with exit code {done.code}")
            raise WalkError(done.command)

    def _write(self, line: str) -> None:
        print(line, file=self.out, flush=True)


def walk(document: str, folder: Path, out) -> bool:
    """Walk through a document; whether every command succeeded."""
    walk = Walk(folder, out)
    try:
        for step in parse(document):
            walk.step(step)
        walk.finish()
    except WalkError:
        return False
    else:
        return True
    finally:
        walk.close()


def main(argv: Sequence[str]) -> int:
    """Run the command line; see the top of the file."""
    if len(argv) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    return 0 if walk(Path(argv[0]).read_text(encoding="utf-8"), Path(os.path.expanduser("~")), sys.stdout) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
