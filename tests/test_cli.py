"""How the programs end: one line and an exit code for whatever a user can cause, without a traceback."""

import contextlib
import ctypes
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import backtest
import kafka_producer
from sor import cli
from sor.errors import FeedError, SorError, UsageError

ROOT = Path(__file__).parent.parent


def ends_with(error):
    def work():
        raise error

    return cli.run(work)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (FeedError("day.csv: is empty"), 1, "error: day.csv: is empty"),
        (SorError("so"), 1, "error: so"),
        (UsageError("mode is 'x'; it must be y"), 2, "error: mode is 'x'; it must be y"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (cli.Terminated(), 143, "terminated"),
        (PermissionError(13, "Permission denied", "out"), 1, "error: out: Permission denied"),
        (OSError("disk is gone"), 1, "error: file: disk is gone"),
    ],
)
def test_an_error_is_one_line_and_a_code(capsys, error, code, line):
    assert ends_with(error) == code
    assert capsys.readouterr().err == f"{line}\n"


def test_work_done_returns_its_code():
    assert cli.run(lambda: 0) == 0
    assert cli.run(lambda: 3) == 3


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.run(lambda: 1 // 0)


def test_signals_end_the_work_with_their_codes_and_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    assert cli.run(lambda: signal.raise_signal(signal.SIGTERM)) == 143
    assert cli.run(lambda: signal.raise_signal(signal.SIGINT)) == 130
    assert signal.getsignal(signal.SIGTERM) is before


def in_a_finalizer(number):
    class Dying:
        def __del__(self):
            signal.raise_signal(number)

    Dying()


def in_a_callback_of_c(number):
    callback = ctypes.CFUNCTYPE(None)(lambda: signal.raise_signal(number))
    callback()


def under_an_except_of_everything(number):
    with contextlib.suppress(BaseException):
        signal.raise_signal(number)


@pytest.mark.parametrize("swallow", [in_a_finalizer, in_a_callback_of_c, under_an_except_of_everything])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_was_swallowed_comes_again(capsys, swallow, number, code):
    def work():
        swallow(number)
        time.sleep(10)
        raise AssertionError("not reached")

    assert cli.run(work) == code
    assert capsys.readouterr().err == {130: "interrupted\n", 143: "terminated\n"}[code]


def test_it_comes_as_often_as_it_is_swallowed():
    swallowed = []

    def work():
        under_an_except_of_everything(signal.SIGTERM)
        while len(swallowed) < 3:
            try:
                time.sleep(10)
            except BaseException as error:
                swallowed.append(type(error))
        time.sleep(10)

    assert cli.run(work) == 143
    assert swallowed == [cli.Terminated] * 3


def test_nothing_after_a_checkpoint_happens_once_a_signal_was_swallowed():
    steps = []

    def work():
        under_an_except_of_everything(signal.SIGINT)
        cli.checkpoint()
        steps.append("not reached")

    assert cli.run(work) == 130
    assert steps == []


def test_a_swallowed_signal_waits_for_the_end_of_a_deferred_block():
    steps = []

    def work():
        under_an_except_of_everything(signal.SIGTERM)
        with cli.deferred_signals():
            end_s = time.monotonic() + 4 * cli.REPEAT_S
            while time.monotonic() < end_s:
                pass
            steps.append("the step is finished")
        time.sleep(10)
        steps.append("not reached")

    assert cli.run(work) == 143
    assert steps == ["the step is finished"]


def test_a_second_signal_does_not_disturb_the_cleaning_up_after_the_first():
    steps = []

    def work():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGTERM)
            steps.append("cleaned up")

    assert cli.run(work) == 130
    assert steps == ["cleaned up"]


@pytest.mark.parametrize("failure", [FeedError("the file is gone"), OSError("the disk is gone")])
def test_a_failure_of_the_cleaning_up_does_not_hide_the_signal(capsys, failure):
    def work():
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise failure

    assert cli.run(work) == 143
    assert capsys.readouterr().err == "terminated\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_deferred_signal_comes_at_the_end_of_the_block(number, code):
    steps = []

    def work():
        with cli.deferred_signals():
            signal.raise_signal(number)
            steps.append("the step is finished")
        steps.append("not reached")

    assert cli.run(work) == code
    assert steps == ["the step is finished"]


def test_a_block_without_a_signal_is_left_quietly():
    before = signal.getsignal(signal.SIGINT)
    with cli.deferred_signals():
        pass
    assert signal.getsignal(signal.SIGINT) is before


HEADER = "ts_event,publisher_id,symbol,action,side,price,size,bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,sequence\n"
QUOTES = "".join(
    f"2024-08-01T14:00:{i:02}.000000000Z,2,{{symbol}},A,B,100.0,100,100.0,100.02,100,400,{i}\n" for i in range(30)
)


@pytest.fixture
def files(tmp_path):
    """A folder of things that are wrong, each in its way, and one day that is right."""
    (tmp_path / "right.csv").write_text(HEADER + QUOTES.format(symbol="SIM"))
    (tmp_path / "two.csv").write_text(HEADER + QUOTES.format(symbol="SIM") + QUOTES.format(symbol="XYZ"))
    (tmp_path / "off.csv").write_text((HEADER + QUOTES.format(symbol="SIM")).replace("Z,2,", "Z,17,"))
    (tmp_path / "binary.csv").write_bytes(bytes(range(256)) * 50)
    (tmp_path / "cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00\x00")
    (tmp_path / "bad.toml").write_text("[[venue")
    (tmp_path / "latin.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "file").write_text("")
    (tmp_path / "taken" / "output.json").mkdir(parents=True)
    return tmp_path


RIGHT = ("--csv", "right.csv", "--out", "out")


@pytest.mark.parametrize(
    ("program", "words", "code", "tells"),
    [
        ("backtest", ["--csv", "missing.csv"], 1, "missing.csv: cannot be read"),
        ("backtest", ["--csv", "."], 1, ".: cannot be read"),
        ("backtest", ["--csv", "binary.csv"], 1, "binary.csv: "),
        ("backtest", ["--csv", "cut.csv.gz"], 1, "cut.csv.gz: cannot be read"),
        ("backtest", ["--csv", "two.csv", "--max-disorder", "100"], 1, "choose one with --symbol"),
        ("backtest", ["--csv", "right.csv", "--symbol", "ABC"], 1, "holds no usable row of symbol ABC"),
        ("backtest", ["--csv", "off.csv"], 1, "no quote of a venue that orders can be routed to"),
        ("backtest", [*RIGHT, "--start-time", "15:00"], 1, "no usable book between 15:00 and 16:00 America/New_York"),
        ("backtest", [*RIGHT, "--time-zone", "Mars/Olympus"], 2, "time_zone is 'Mars/Olympus'; it must be"),
        ("backtest", [*RIGHT, "--time-zone", "../../etc/passwd"], 2, "time_zone is '../../etc/passwd'; it must be"),
        (
            "backtest",
            [*RIGHT, "--venues", "missing.toml"],
            2,
            "missing.toml: cannot be read: No such file or directory",
        ),
        ("backtest", [*RIGHT, "--venues", "."], 2, ".: cannot be read: Is a directory"),
        ("backtest", [*RIGHT, "--venues", "bad.toml"], 2, "bad.toml"),
        ("backtest", [*RIGHT, "--venues", "latin.toml"], 2, "latin.toml: is not UTF-8 text"),
        ("backtest", ["--csv", "right.csv", "--out", "file"], 2, "'file': File exists"),
        ("backtest", ["--csv", "right.csv", "--out", "file/deeper"], 2, "Not a directory"),
        (
            "backtest",
            ["--csv", "right.csv", "--out", "taken"],
            1,
            "taken/output.json: it is no file that could be replaced",
        ),
        ("backtest", ["--csv", "right.csv", "--out", "/proc/nowhere"], 2, "'/proc/nowhere': "),
        ("backtest", [*RIGHT, "--rejects", "."], 2, "rejects: . cannot be written"),
        ("kafka_producer", ["--csv", "missing.csv"], 1, "missing.csv: cannot be read"),
        ("kafka_producer", ["--csv", "right.csv", "--rejects", "no/such/r.csv"], 2, "rejects: no/such/r.csv cannot be"),
    ],
)
def test_whatever_a_user_can_cause_is_one_line(files, monkeypatch, capsys, program, words, code, tells):
    monkeypatch.chdir(files)
    assert {"backtest": backtest, "kafka_producer": kafka_producer}[program].main(words) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert tells in errors[0]
    assert not (files / "out" / "output.json").exists()


def test_a_pipe_closed_early_is_no_traceback(files):
    command = [sys.executable, str(ROOT / "backtest.py"), *RIGHT, "--show"]
    process = subprocess.Popen(command, cwd=files, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 1
    assert "Traceback" not in err
    assert "BrokenPipe" not in err


def test_no_space_left_is_one_line(files):
    with open("/dev/full", "w") as full:
        command = [sys.executable, str(ROOT / "backtest.py"), *RIGHT]
        done = subprocess.run(command, cwd=files, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "error: file: No space left on device"
