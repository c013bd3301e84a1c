"""backtest.py without Kafka: a hand-worked order, the shape of what is written, and that it is written whole or not at all."""

import gzip
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import pytest

import backtest
from sor import plot
from sor.stream import Silence

ROOT = Path(__file__).parent.parent
HEADER = "ts_event,publisher_id,symbol,action,side,price,size,bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,sequence\n"
GRID = ["--lambda-over", "0.1,0.2", "--lambda-under", "0.3", "--theta-queue", "0,0.5"]
NAMES = ("output.json", "grid_results.json", "results.png", "results.pdf", "savings_plot.png")
VENUES = """
[default]
taker_fee = 0.003
maker_rebate = 0.002
as_of = 2024-08-01
source = "made for a test"
"""


def row(second, publisher_id, ask_px, ask_sz, action="A", px=100.0, size=100):
    at = f"2024-08-01T14:{second // 60:02}:{second % 60:02}.000000000Z"
    return f"{at},{publisher_id},SIM,{action},B,{px},{size},100.0,{ask_px},100,{ask_sz},{second}\n"


DAY = HEADER + "".join(row(i, 2, 100.02, 400) for i in range(30))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, with the day of 30 equal quotes: 400 shares at 100.02, bid 100.00."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "day.csv").write_text(DAY)
    return tmp_path


def run(*words, out="out"):
    """Exit code 0, and output.json."""
    assert backtest.main(["--csv", "day.csv", "--out", out, "--order-size", "300", *GRID, *words]) == 0
    return json.loads(Path(out, "output.json").read_text())


def test_an_order_worked_by_hand(folder):
    """300 at 100.02 and 0.003 of fee each are 30,006.90 USD; at the arrival mid of 100.01 they are 30,003.00: 1.3 bps."""
    Path("venues.toml").write_text(VENUES)
    output = run("--venues", "venues.toml")
    for taken in (output["optimized"], *output["baselines"].values()):
        assert taken["total_cash"] == 30_006.9
        assert taken["fees"] == 0.9
        assert taken["avg_fill_px"] == 100.023
        assert taken["shares_filled"] == 300
        assert taken["completed_at_deadline"] == 0
        assert taken["shortfall_bps"] == pytest.approx(1.29987, abs=1e-6)
    assert output["savings_vs_baselines_bps"] == {"best_ask": 0, "twap": 0, "vwap": 0}
    assert output["clairvoyant"]["total_cash"] == 30_006.9
    assert output["best_parameters"] == {"lambda_over": 0.1, "lambda_under": 0.3, "theta_queue": 0.0}
    assert output["order"]["arrival_mid_px"] == pytest.approx(100.01)


def test_what_is_written(folder, capsys):
    output = run()
    out, err = capsys.readouterr()
    jsonschema.validate(output, json.loads((ROOT / "docs" / "output.schema.json").read_text()))
    assert list(output)[:4] == ["best_parameters", "optimized", "baselines", "savings_vs_baselines_bps"]
    assert json.loads(out) == {name: output[name] for name in list(output)[:4]}
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(NAMES)
    grid = json.loads(Path("out/grid_results.json").read_text())
    assert [(row["lambda_over"], row["lambda_under"], row["theta_queue"]) for row in grid] == list(
        itertools.product((0.1, 0.2), (0.3,), (0.0, 0.5))
    )
    assert {row["total_cash"] for row in grid} == {output["optimized"]["total_cash"]}
    assert output["grid"]["size"] == 4
    assert output["grid"]["distinct_outcomes"] == 1
    assert "the parameters do not matter for the policy router" in err  # no trades: nothing can be posted
    table = err[err.index("strategy  ") :]
    assert [line.split()[0] for line in table.splitlines()[1:6]] == [
        "router",
        "best_ask",
        "twap",
        "vwap",
        "clairvoyant",
    ]
    assert "simulated data" in err
    assert "walk-forward, 0 orders of 300" in err


def test_two_runs_write_the_same_bytes_but_for_run(folder):
    first, second = run(out="a"), run(out="b")
    for output in (first, second):
        assert output.pop("run")["transport"] == "csv"
    assert json.dumps(first) == json.dumps(second)
    for name in NAMES[1:]:
        assert Path("a", name).read_bytes() == Path("b", name).read_bytes(), name


def test_a_gz_file_is_another_file_with_the_same_results(folder):
    plain = run()
    Path("day.csv").write_bytes(gzip.compress(DAY.encode()))
    packed = run(out="b")
    assert packed["data"].pop("sha256") != plain["data"].pop("sha256")
    assert {**packed, "run": 0} == {**plain, "run": 0}


def test_rows_set_aside_are_counted_and_kept(folder):
    Path("day.csv").write_text(DAY + row(31, 2, -1, 400) + row(32, 2, 100.02, 400, action="X"))
    output = run("--rejects", "kept.csv")
    assert output["data"]["rejects"] == {
        "unknown_action": {"count": 1, "first_line": 33},
        "negative_or_infinite": {"count": 1, "first_line": 32},
    }
    assert [line.split(",")[:2] for line in Path("kept.csv").read_text().splitlines()[1:]] == [
        ["32", "negative_or_infinite"],
        ["33", "unknown_action"],
    ]
    assert backtest.main(["--csv", "day.csv", "--strict"]) == 1


def test_one_symbol_of_several_is_chosen(folder):
    other = row(5, 2, 200.0, 400).replace("SIM", "XYZ")
    Path("day.csv").write_text(HEADER + "".join(row(i, 2, 100.02, 400) + other for i in range(6)))
    output = run("--symbol", "SIM", "--max-disorder", "60")
    assert (output["data"]["symbol"], output["data"]["rows"], output["data"]["rows_of_other_symbols"]) == ("SIM", 6, 6)


def test_show_prints_a_line_for_every_timestamp(folder, capsys):
    Path("day.csv").write_text(
        HEADER + row(0, 2, 100.02, 400) + row(0, 3, 100.03, 200) + row(1, 2, 0, 0) + row(2, 3, 100.04, 1, "T")
    )
    backtest.main(["--csv", "day.csv", "--out", "out", "--show", "--order-size", "1"])
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == [
        "2024-08-01T14:00:00.000000000Z  2: 100 x 100 / 100.02 x 400  3: 100 x 100 / 100.03 x 200",
        "2024-08-01T14:00:01.000000000Z  2: 100 x 100 / 0 x 0",
    ]
    assert "14:00:02" not in out


def test_results_are_written_whole_or_stay_as_they_were(folder, monkeypatch):
    run()
    before = Path("out/output.json").read_bytes()
    shutil.copy("out/output.json", "kept.json")

    def fails(*args, **kwargs):
        raise OSError(28, "No space left on device", "results.png")

    monkeypatch.setattr(plot, "save", fails)
    assert backtest.main(["--csv", "day.csv", "--out", "out", "--order-size", "200"]) == 1
    assert Path("out/output.json").read_bytes() == before
    assert sorted(path.name for path in Path("out").iterdir()) == sorted(NAMES)


def test_the_order_section_says_when_it_ran(folder):
    output = run("--start-time", "10:00:05", "--end-time", "10:00:20")
    assert output["order"]["start"] == "2024-08-01T14:00:05.000000000Z"
    assert output["order"]["end"] == "2024-08-01T14:00:20.000000000Z"
    assert output["settings"]["start_time"] == "10:00:05"


class Message:
    """A record sent `ago_s` seconds ago."""

    def __init__(self, ago_s: float) -> None:
        self.timestamp = 1000 * (time.time() - ago_s)


def test_silence_is_judged_by_what_came_last_and_only_at_the_end_of_the_topic():
    now = [100.0]
    silence = Silence(timeout_s=30, clock=lambda: now[0])
    assert not silence.too_long(lambda: True)
    silence.heard([Message(ago_s=5)])
    now[0] += 4
    assert not silence.too_long(lambda: True)
    silence.heard([Message(ago_s=60)])  # the producer has been gone for a minute, or its clock is wrong
    now[0] += 2
    assert not silence.too_long(lambda: True)
    now[0] += 2
    assert silence.too_long(lambda: True)
    assert not silence.too_long(lambda: False)


def test_silence_after_nothing_at_all():
    silence = Silence(timeout_s=0.01)
    time.sleep(0.02)
    assert silence.too_long(lambda: True)


def test_an_order_ends_with_its_day_and_later_days_are_warned_of(folder, capsys):
    whole = run()
    Path("day.csv").write_text(DAY + row(29, 2, 100.02, 400).replace("2024-08-01", "2024-08-02"))
    longer = run(out="b")
    assert "1 quotes of later days were not used" in capsys.readouterr().err
    assert longer["data"].pop("rows_after_the_day") == 1
    assert longer["order"] == whole["order"]
    assert longer["baselines"] == whole["baselines"]


def test_rows_set_aside_are_warned_of(folder, capsys):
    bad = row(29, 2, 99.0, 400) * 10  # its own bid of 100.00 is above this ask
    Path("day.csv").write_text(DAY + bad)
    run()
    assert "10 rows of the file were set aside (crossed 10 from line 32): a large part of the data" in (
        capsys.readouterr().err
    )


def test_shares_nowhere_on_the_book_are_warned_of(folder, capsys):
    assert backtest.main(["--csv", "day.csv", "--out", "out", "--order-size", "1000"]) == 0
    assert "up to 600 shares were nowhere on the book" in capsys.readouterr().err


def test_an_order_beyond_what_cash_can_count_is_refused(folder, capsys):
    Path("day.csv").write_text(DAY.replace("100.02", "5000.02").replace("100.0,5000.02", "4999.0,5000.02"))
    assert backtest.main(["--csv", "day.csv", "--out", "out", "--order-size", "2000000000"]) == 1
    assert "choose a smaller --order-size" in capsys.readouterr().err


def test_only_crossed_quotes_say_why_there_is_no_book(folder, capsys):
    good = row(0, 2, 0, 0)  # no ask at all
    Path("day.csv").write_text(HEADER + good + row(1, 2, 99.0, 400))
    assert backtest.main(["--csv", "day.csv", "--out", "out"]) == 1
    err = capsys.readouterr().err
    assert "never show a bid and an ask that do not cross" in err
    assert "line 3: crossed" in err


@pytest.mark.parametrize("name", ["ÄÖ".encode("latin-1"), "株".encode(), b"A" * 31])
def test_any_symbol_of_31_bytes_is_traded(folder, name):
    Path("day.csv").write_bytes(DAY.encode().replace(b"SIM", name))
    assert run()["data"]["rows"] == 30


def test_a_symbol_that_would_be_cut_is_set_aside(folder, capsys):
    Path("day.csv").write_bytes(DAY.encode().replace(b"SIM", b"A" * 32 + b"X"))
    assert backtest.main(["--csv", "day.csv", "--out", "out"]) == 1
    assert "symbol must be 1 to 31 bytes" in capsys.readouterr().err


def test_wrong_folders_and_venue_tables_are_wrong_usage(folder, capsys):
    Path("file").write_text("")
    for words in (("--out", "file/below"), ("--venues", "not-there.toml"), ("--replay",), ("--run-id", "x")):
        try:
            code = backtest.main(["--csv", "day.csv", *words])
        except SystemExit as stopped:
            code = stopped.code
        assert code == 2, words
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_closed_standard_streams_do_not_matter(folder, closed):
    command = f"{sys.executable} {ROOT / 'backtest.py'} --csv day.csv --out out --order-size 300 {closed}"
    assert subprocess.run(command, shell=True, check=False, capture_output=True).returncode == 0
    assert Path("out/output.json").exists()


def test_ctrl_c_while_modules_load_leaves_no_traceback(folder):
    program = subprocess.Popen([sys.executable, ROOT / "backtest.py", "--csv", "day.csv"], stderr=subprocess.PIPE)
    time.sleep(0.3)
    program.send_signal(signal.SIGINT)
    assert b"Traceback" not in program.communicate(timeout=30)[1]
    assert program.returncode in (-signal.SIGINT, 130)
