"""What the programs say on stderr: one message, one line of text (`warning: ...`), or one JSON object with `--log-json`.

    with log.on_stderr("backtest", level="info"):
        log.say("reading")

Everything goes through here: our own messages, the progress bar, what libraries log and, as JSON, their warnings too. The Kafka
client is heard at the level debug only, for what goes wrong is said once, in our words.
"""

from __future__ import annotations

import io
import json
import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

LINE_S = 5.0  # between two lines of a progress that is not drawn
DRAW_S = 0.2  # between two looks of a bar on a terminal
_PREFIXES = {"DEBUG": "debug: ", "WARNING": "warning: ", "ERROR": "error: ", "CRITICAL": "error: "}
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
_OURS = logging.getLogger("sor")


def say(text: str) -> None:
    """For the person at the terminal."""
    _OURS.info("%s", text)


def debug(text: str) -> None:
    """For who looks for a fault."""
    _OURS.debug("%s", text)


def warn(text: str) -> None:
    """What should be known before the results are used."""
    _OURS.warning("%s", text)


def error(text: str) -> None:
    """Why the program ends without having done its work."""
    _OURS.error("%s", text)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Say at the level debug how long the block took."""
    start_s = time.perf_counter()
    yield
    debug(f"{name}: {time.perf_counter() - start_s:.3f} s")


@contextmanager
def on_stderr(program: str, level: str = "info", as_json: bool = False, secret: str = "") -> Iterator[None]:
    """How messages of the block are written; as JSON, a mistake of ours ends the program with its traceback in a message."""
    root, kafka = logging.getLogger(), logging.getLogger("kafka")
    before = _handler.formatter, _OURS.level, kafka.level
    _handler.setFormatter(_Json(program, secret) if as_json else _Text(secret))
    _OURS.setLevel(level.upper())
    if level == "debug":
        kafka.setLevel(logging.WARNING)
    root.addHandler(_handler)
    logging.captureWarnings(as_json)
    try:
        yield
    except Exception:
        if not as_json:
            raise
        error(traceback.format_exc())
        raise SystemExit(1) from None
    finally:
        logging.captureWarnings(False)
        root.removeHandler(_handler)
        _handler.setFormatter(before[0])
        _OURS.setLevel(before[1])
        kafka.setLevel(before[2])


def progress(total: int | None, unit: str, description: str) -> tqdm:
    """A bar on the terminal; a line now and then where there is none, or JSON; nothing above the level info."""
    from tqdm import tqdm

    options = {"total": total, "unit": unit, "desc": description, "unit_scale": True}
    if not _OURS.isEnabledFor(logging.INFO):
        return tqdm(**options, disable=True)
    if isinstance(_handler.formatter, _Json):
        return _told_in_lines(options)
    return tqdm(**options, file=sys.stderr, mininterval=DRAW_S if sys.stderr.isatty() else LINE_S)


def _told_in_lines(options: dict[str, object]) -> tqdm:
    from tqdm import tqdm

    class Lines(tqdm):
        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            say(str(self))

        def set_postfix_str(self, s: str = "", refresh: bool = True) -> None:
            super().set_postfix_str(s, refresh=False)  # told with the next line

    form = "{desc}: {n_fmt} of {total_fmt} {unit}s, {elapsed}{postfix}"
    return Lines(**options, file=io.StringIO(), mininterval=LINE_S, bar_format=form)


class _Stderr(logging.Handler):
    """Writes to what sys.stderr is at that moment, above a bar that is being drawn."""

    def emit(self, record: logging.LogRecord) -> None:
        loaded = sys.modules.get("tqdm")  # no bar without it; --doctor works where it is missing
        with loaded.tqdm.external_write_mode(sys.stderr) if loaded else nullcontext():
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()


class _Text(logging.Formatter):
    """`warning: ` and `error: ` before the text; a control character, such as a terminal obeys, becomes its number."""

    def __init__(self, secret: str = "") -> None:
        super().__init__()
        self._secret = secret

    def format(self, record: logging.LogRecord) -> str:
        return _PREFIXES.get(record.levelname, "") + self.message(record).translate(_CONTROLS)

    def message(self, record: logging.LogRecord) -> str:
        text = record.getMessage().rstrip("\n")
        if record.name == _OURS.name:
            return text
        return f"{record.name}: {text.replace(self._secret, '***') if self._secret else text}"  # not of our own making


class _Json(_Text):
    """An object with time (UTC), level, program and message."""

    def __init__(self, program: str, secret: str = "") -> None:
        super().__init__(secret)
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        fields = {
            "time": f"{at}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "program": self._program,
            "message": self.message(record).encode("utf-8", "replace").decode(),  # half of a pair is no character
        }
        return json.dumps(fields)


_handler = _Stderr()
_handler.setFormatter(_Text())
_OURS.setLevel(logging.INFO)
_OURS.propagate = False
_OURS.addHandler(_handler)
