"""--log-level and --log-json: what is on stderr, for people or as JSON objects, and nothing beside it."""

import json
import logging
import os
import re
import subprocess
import sys
import warnings
from datetime import datetime, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import backtest
from sor import log

ROOT = Path(__file__).resolve().parents[1]
HEADER = "ts_event,publisher_id,symbol,action,side,price,size,bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,sequence\n"
SMALL = ["--order-size", "300", "--lambda-over", "0.1", "--lambda-under", "0.3", "--theta-queue", "0"]
SECRET = "a password in a library's message"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in with a day of 30 quotes, after one row that is set aside."""
    monkeypatch.chdir(tmp_path)
    rows = (
        f"2024-08-01T14:00:{i:02}.000000000Z,2,SIM,{'X' if i == 0 else 'A'},B,0,0,100.0,100.02,100,400,{i}\n"
        for i in range(31)
    )
    (tmp_path / "day.csv").write_text(HEADER + "".join(rows))
    return tmp_path


def said(capsys):
    """The JSON objects on stderr, a line each."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def all_levels():
    log.debug("a")
    log.say("b")
    log.warn("c")
    log.error("d")


@pytest.mark.parametrize(
    ("level", "lines"),
    [
        ("debug", ["debug: a", "b", "warning: c", "error: d"]),
        ("info", ["b", "warning: c", "error: d"]),
        ("warning", ["warning: c", "error: d"]),
        ("error", ["error: d"]),
    ],
)
def test_a_level_shows_itself_and_what_is_more_serious(capsys, level, lines):
    with log.on_stderr("test", level):
        all_levels()
    assert capsys.readouterr().err.splitlines() == lines
    with log.on_stderr("test", level, as_json=True):
        all_levels()
    assert [line["message"] for line in said(capsys)] == [line.split()[-1] for line in lines]


def test_without_a_program_lines_are_those_of_level_info(capsys):
    all_levels()
    assert capsys.readouterr().err.splitlines() == ["b", "warning: c", "error: d"]


def test_an_object_says_when_how_serious_who_and_what(capsys):
    with log.on_stderr("kafka_producer", as_json=True):
        log.warn("so")
    (line,) = said(capsys)
    at = line.pop("time")
    assert line == {"level": "warning", "program": "kafka_producer", "message": "so"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
    age = datetime.now(timezone.utc) - datetime.fromisoformat(at.replace("Z", "+00:00"))
    assert abs(age.total_seconds()) < 60


@given(st.text(st.characters(codec=None)))
def test_any_text_is_one_line_of_json_that_gives_it_back(text):
    record = logging.LogRecord("sor", logging.INFO, "", 0, "%s", (text,), None)
    line = log._Json("test").format(record)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["message"] == text.rstrip("\n").encode("utf-8", "replace").decode()


def test_what_a_terminal_obeys_is_shown_as_its_number(capsys):
    log.say("a\x1b[2Jb\rc\x9bd\te\nf")
    assert capsys.readouterr().err == "a\\x1b[2Jb\\x0dc\\x9bd\te\nf\n"


@pytest.mark.parametrize("as_json", [False, True])
def test_the_kafka_client_is_heard_at_debug_only_and_tells_no_secret(capsys, as_json):
    kafka = logging.getLogger("kafka.conn")
    for level in ("info", "debug"):
        with log.on_stderr("test", level, as_json, SECRET):
            kafka.warning("cannot log in with %s", SECRET)
            kafka.info("not a warning")
    (line,) = capsys.readouterr().err.splitlines()
    assert "kafka.conn: cannot log in with ***" in line
    assert SECRET not in line


def test_a_librarys_warning_is_an_object_too(capsys):
    with warnings.catch_warnings(), log.on_stderr("test", as_json=True):
        warnings.simplefilter("always")
        warnings.warn("old\nstyle", stacklevel=1)
        logging.getLogger("matplotlib").warning("no font")
    levels = [(line["level"], line["message"].partition(":")[0]) for line in said(capsys)]
    assert levels == [("warning", "py.warnings"), ("warning", "matplotlib")]


def test_a_mistake_of_ours_is_a_message_with_its_traceback(capsys):
    with pytest.raises(SystemExit) as stopped, log.on_stderr("test", as_json=True):
        1 // 0  # noqa: B018
    assert stopped.value.code == 1
    (line,) = said(capsys)
    assert line["level"] == "error"
    assert "Traceback" in line["message"]
    assert line["message"].endswith("ZeroDivisionError: integer division or modulo by zero")


def test_everything_is_as_before_after_the_block(capsys):
    root, kafka = logging.getLogger(), logging.getLogger("kafka")
    before = list(root.handlers), kafka.level, warnings.showwarning
    with log.on_stderr("test", "debug", as_json=True):
        pass
    assert (list(root.handlers), kafka.level, warnings.showwarning) == before
    log.say("text")
    assert capsys.readouterr().err == "text\n"


def test_progress_is_a_bar_with_text(capsys):
    with log.progress(3, "row", "sending") as bar:
        bar.update(3)
        bar.set_postfix_str("lag 0.00 s")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"sending: 100%\|.*\| 3\.00/3\.00 \[.*row/s, lag 0\.00 s\]", err)


def test_progress_is_a_line_now_and_then_as_json_and_nothing_above_info(capsys):
    with log.on_stderr("test", as_json=True), log.progress(3, "row", "sending") as bar:
        for _ in range(3):
            bar.update()
            bar.set_postfix_str("lag 0.00 s")
    lines = [line["message"] for line in said(capsys)]
    assert len(lines) == 2
    assert re.fullmatch(r"sending: 3\.00 of 3\.00 rows, 00:0\d, lag 0\.00 s", lines[-1])
    with log.on_stderr("test", "warning"), log.progress(3, "row", "sending") as bar:
        bar.update(3)
        bar.set_postfix_str("lag 0.00 s")
    assert capsys.readouterr().err == ""


def test_a_line_does_not_run_into_the_bar(capsys):
    with log.progress(3, "row", "sending") as bar:
        bar.update()
        log.warn("look")
    assert re.search(r"[\r\n] *\r?warning: look\n", capsys.readouterr().err)


# --- the programs -------------------------------------------------------------------------------------------------------


def test_every_line_of_a_whole_run_is_an_object_and_stdout_is_as_always(folder, capsys):
    words = ["--csv", "day.csv", "--out", "out", *SMALL]
    assert backtest.main(words) == 0
    out = capsys.readouterr().out
    assert backtest.main([*words, "--log-json", "--log-level", "debug"]) == 0
    again, err = capsys.readouterr()
    assert again == out
    lines = [json.loads(line) for line in err.splitlines()]
    assert {line["program"] for line in lines} == {"backtest"}
    stages = [line["message"].partition(":")[0] for line in lines if line["level"] == "debug"]
    assert stages == ["read", "market", "replay", "evaluation", "write"]
    assert any(line["message"].startswith("strategy  ") and "\n" in line["message"] for line in lines)
    assert any("1 rows of the file were set aside" in line["message"] for line in lines if line["level"] == "warning")


def test_nothing_is_said_about_a_run_without_a_fault_at_level_error(folder, capsys):
    assert backtest.main(["--csv", "day.csv", "--out", "out", *SMALL, "--log-level", "error"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("program", "words", "code"),
    [
        ("backtest.py", ["--csv", "no\nsuch.csv"], 1),
        ("kafka_producer.py", ["--csv", "no-such.csv"], 1),
    ],
)
def test_a_failure_is_an_object(folder, program, words, code):
    environ = {**os.environ, "SOR_LOG_JSON": "1"}
    done = subprocess.run(
        [sys.executable, ROOT / program, *words], cwd=folder, env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["level"] for line in lines] == ["error"]
    assert lines[0]["program"] == program.removesuffix(".py")


def test_wrong_usage_is_text_for_there_are_no_settings_yet(folder, capsys):
    with pytest.raises(SystemExit) as stopped:
        backtest.main(["--log-json", "--log-level", "loud"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith(
        "backtest.py: error: log_level (--log-level) is 'loud'; it must be one of"
    )
