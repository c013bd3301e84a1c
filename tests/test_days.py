"""sor.days: many files give one evaluation, the same here, on local workers and on a scheduler, whatever dies on the way."""

import contextlib
import dataclasses
import gzip
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psutil
import pytest

import backtest
import config
from sor import days, evaluation
from sor.days import Day, File
from sor.errors import SorError, UsageError

ROOT = Path(__file__).parent.parent
HEADER = "ts_event,publisher_id,symbol,action,side,price,size,bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,sequence\n"
SMALL = [  # twelve windows of ten seconds and two triples
    *("--order-size", "300", "--slice-s", "5", "--resamples", "100", "--lambda-over", "0.1"),
    *("--lambda-under", "0.3", "--theta-queue", "0,0.5"),
    *("--evaluation-window-s", "10", "--evaluation-stride-s", "10", "--evaluation-skip-s", "0"),
]
DAYS = 12
FULL_DAY = (
    "--slice-s",
    "1",
    "--evaluation-window-s",
    "1",
    "--evaluation-stride-s",
    "1",
)  # thousands of windows: takes long enough


def row(day, second, ask_px, symbol="SIM"):
    at = f"2024-08-{day:02}T14:{second // 60:02}:{second % 60:02}.000000000Z"
    return f"{at},2,{symbol},A,B,0,0,100.00,{ask_px:.2f},400,{100 + 10 * (second % 7)},{second}\n"


def day_text(day, seconds=121, **more):
    """A quote a second, the ask a few cents above the bid, in another rhythm every day."""
    return HEADER + "".join(row(day, i, 100.02 + 0.01 * ((i * day) % 5), **more) for i in range(seconds))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to work in with twelve days, each in a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "days").mkdir()
    for day in range(1, DAYS + 1):
        (tmp_path / "days" / f"2024-08-{day:02}.csv.gz").write_bytes(gzip.compress(day_text(day).encode(), mtime=0))
    return tmp_path


def run(*words, out="out", pattern="days/*.csv.gz"):
    """Exit code 0, and output.json."""
    assert backtest.main(["--days", pattern, "--out", out, *SMALL, *words]) == 0
    return json.loads(Path(out, "output.json").read_text())


def but_run(folder):
    """The bytes of output.json before `run`, its last section."""
    before, run_section, _ = Path(folder, "output.json").read_bytes().partition(b'  "run": {')
    assert run_section
    return before


def plan(*words):
    settings = config.settings("backtest", ["--days", "days/*", *SMALL, *words], "", {})
    return backtest._plan(settings, backtest._venue_table(settings))


def answer(call, *words):
    """Exit code and what is said on stderr."""
    try:
        code = backtest.main([*words])
    except SystemExit as stopped:
        code = stopped.code
    return code, call.readouterr().err


# --- one after another --------------------------------------------------------------------------------------------------


def test_files_are_named_below_the_folder_they_share(folder):
    Path("days/ARL").mkdir()
    Path("days/ARL/2024-08-01.csv").write_text(day_text(1))
    assert [file.name for file in days.find("days/*")] == [f"2024-08-{day:02}.csv.gz" for day in range(1, DAYS + 1)]
    names = [file.name for file in days.find("days/**")]
    assert names[-1] == "ARL/2024-08-01.csv"
    assert all(os.path.isabs(file.path) for file in days.find("days/*"))
    with pytest.raises(UsageError, match="finds no file"):
        days.find("nights/*")


def test_one_file_gives_the_evaluation_of_a_single_run(folder):
    pooled = run(pattern="days/2024-08-03.csv.gz")
    assert backtest.main(["--csv", "days/2024-08-03.csv.gz", "--out", "single", *SMALL]) == 0
    single = json.loads(Path("single/output.json").read_text())
    for row in single["evaluation"]["walk_forward"]["chosen"]:
        row["day"] = "2024-08-03.csv.gz"
    assert pooled["evaluation"] == single["evaluation"]
    assert pooled["settings"] == single["settings"]
    (about,) = pooled["data"]["files"]
    assert {key: single["data"][key] for key in about if key in single["data"]} == {
        key: value for key, value in about.items() if key in single["data"]
    }
    assert about["session"] == ["2024-08-03T14:00:00.000000000Z", "2024-08-03T14:02:00.000000000Z"]


def test_days_are_pooled_and_resampled_as_days(folder, capsys):
    output = run()
    evaluated = output["evaluation"]
    assert (evaluated["days"], evaluated["windows"]) == (DAYS, 12 * DAYS)
    assert evaluated["walk_forward"]["savings"]["twap"]["ci95"] is not None
    assert {row["day"] for row in evaluated["walk_forward"]["chosen"]} == {
        row["file"] for row in output["data"]["files"]
    }
    assert output["data"]["rows"] == 121 * DAYS
    assert output["data"]["symbols"] == ["SIM"]
    assert [venue["publisher_id"] for venue in output["data"]["venues"]] == [2]
    assert output["run"]["dask"] is None
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[:3]] == ["strategy", "router", "best_ask"]
    assert "12 files, 1452 rows, 0 files set aside" in out
    assert "warning" not in err


def test_a_bad_file_is_set_aside_and_the_others_count(folder, capsys):
    run(out="good")
    bad = {
        "a.csv": "nothing of this kind\n1\n",
        "b.csv": day_text(20, seconds=5),  # no room for a window
        "c.csv": HEADER + row(21, 0, 0) + row(21, 1, 0),  # no ask
        "d.csv": day_text(22) + row(22, 121, 100.02, symbol="XYZ"),
    }
    for name, text in bad.items():
        Path("days", name).write_text(text)
    Path("days/e.csv.gz").write_bytes(gzip.compress(day_text(23).encode())[:-20])
    capsys.readouterr()
    output = run(pattern="days/*")
    good = json.loads(Path("good/output.json").read_text())
    assert output["evaluation"] == good["evaluation"]
    why = {row["file"]: row["why"] for row in output["data"].pop("set_aside")}
    assert list(why) == [*bad, "e.csv.gz"]
    assert output["data"] == {key: value for key, value in good["data"].items() if key != "set_aside"}
    said = ("lacks ts_event", "no window of 10 s", "never show a bid and an ask", "several symbols", "cannot be read")
    err = capsys.readouterr().err
    for (name, reason), part in zip(why.items(), said, strict=True):
        assert part in reason
        assert str(folder) not in reason
        assert f"warning: set aside: {reason}" in err
        assert reason.startswith(f"{name}: ")


def test_without_a_good_file_nothing_is_written(folder, capsys):
    Path("bad.csv").write_text("x")
    code, err = answer(capsys, "--days", "bad.csv", "--out", "out")
    assert code == 1
    assert "error: none of 1 files can be evaluated; the first: bad.csv" in err
    assert not Path("out/output.json").exists()


def test_our_own_mistake_in_one_file_loses_no_other(folder, monkeypatch):
    replay_day = evaluation.replay_day

    def fails_on_the_third(market, *args, day, **more):
        return 1 // 0 if "08-03" in day else replay_day(market, *args, day=day, **more)

    monkeypatch.setattr(evaluation, "replay_day", fails_on_the_third)
    found = days.run(days.find("days/*"), plan())
    assert [day.why_not for day in found if not day.result] == [
        "2024-08-03.csv.gz: ZeroDivisionError: integer division or modulo by zero"
    ]


def test_a_second_file_of_a_symbol_and_date_is_set_aside(folder, capsys):
    run(out="good")
    Path("days/2024-08-04b.csv.gz").write_bytes(Path("days/2024-08-04.csv.gz").read_bytes())
    output = run()
    why = "2024-08-04b.csv.gz: SIM on 2024-08-04 is in 2024-08-04.csv.gz already"
    assert output["data"]["set_aside"] == [{"file": "2024-08-04b.csv.gz", "why": why}]
    assert f"warning: set aside: {why}" in capsys.readouterr().err
    assert output["evaluation"] == json.loads(Path("good/output.json").read_text())["evaluation"]


def test_symbols_that_share_a_date_are_warned_of(folder, capsys):
    Path("days/XYZ-2024-08-04.csv.gz").write_bytes(gzip.compress(day_text(4, symbol="XYZ").encode()))
    assert run()["data"]["symbols"] == ["SIM", "XYZ"]
    assert "13 files are of 12 dates" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--days", "days/*", "--csv", "x"), "--csv must not be given with --days"),
        (("--days", "days/*", "--replay", "--show"), "--replay, --show must not be given with --days"),
        (("--days", "days/*", "--run-id", "x"), "--run-id must not"),
        (("--days", "days/*", "--rejects", "x"), "--rejects must not"),
        (("--days", "days/*", "--explain", "x"), "--explain must not"),
        (("--days", "days/*", "--evaluate", "off"), "evaluate is 'off'"),
        (("--days", "days/*", "--dask", "10.0.0.5:8786"), "tcp://HOST:PORT"),
        (("--days", "nights/*"), "finds no file"),
        (("--days", "days/*", "--time-zone", "Moon/Base"), "time_zone"),
        (("--dask", "local"), "it says where --days runs"),
    ],
)
def test_wrong_usage_is_one_line(folder, capsys, words, said):
    code, err = answer(capsys, *words)
    assert code == 2
    assert said in err.splitlines()[-1]


def test_dask_is_loaded_only_where_it_is_asked_for(folder):
    code = (
        f"import sys, backtest; assert backtest.main(['--days', 'days/*', '--out', 'out', *{SMALL!r}]) == 0; "
        "sys.exit(bool({'dask', 'distributed'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def test_other_code_than_that_of_the_plan_is_refused(folder):
    stale = dataclasses.replace(plan(), code="0" * 64)
    with pytest.raises(SorError, match="runs other code"):
        days.run(days.find("days/*"), stale)


# --- on Dask ------------------------------------------------------------------------------------------------------------


def slow_first(file, its_plan, seconds):
    """Evaluated, the first file last."""
    time.sleep(seconds if "08-01" in file.name else 0)
    return days.evaluate_file(file, its_plan)


def kills_its_worker_once(file, its_plan, marker):
    """Evaluated; the process that first has the third file is killed in the middle of it."""
    day = days.evaluate_file(file, its_plan)
    if "08-03" in file.name and not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return day


def kills_its_worker(file):
    if file.name == "3":
        os.kill(os.getpid(), signal.SIGKILL)
    return Day(file.name, "not evaluated")


@contextmanager
def scheduler(folder, workers=1):
    """The address of a scheduler in a process of its own with one worker or none, ended with the block."""
    where = folder / "scheduler.json"
    words = ("--scheduler-file", str(where), "--host", "127.0.0.1", "--no-dashboard")
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(Path(__file__).parent)))}
    with contextlib.ExitStack() as programs:
        for name, more in (("scheduler", ("--port", "0")), ("worker", ("--nthreads", "1")))[: 1 + workers]:
            command = [sys.executable, "-m", f"distributed.cli.dask_{name}", *words, *more]
            program = programs.enter_context(subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL))
            programs.callback(program.terminate)
            while not where.exists():
                assert program.poll() is None
                time.sleep(0.05)
        yield json.loads(where.read_text())["address"]


def family():
    """This process and all it started."""
    me = psutil.Process()
    return [me, *me.children(recursive=True)]


def addresses():
    """Where the processes of the family listen."""
    found = set()
    for each in family():
        with contextlib.suppress(psutil.NoSuchProcess):
            found.update(at.laddr.ip for at in each.net_connections("inet") if at.status == psutil.CONN_LISTEN)
    return found


def test_a_worker_that_is_killed_changes_nothing(folder, capsys):
    files, its_plan = days.find("days/*"), plan()
    alone = days.run(files, its_plan)
    others = set(family())  # a broker of other tests, among them
    listening = set()
    found = days.run(
        files,
        partial(kills_its_worker_once, its_plan=its_plan, marker=str(folder / "killed")),
        "local",
        lambda day: listening.update(addresses()),
    )
    assert (folder / "killed").exists()
    assert "is lost: what it was doing is done again" in capsys.readouterr().err
    assert {address.removeprefix("::ffff:") for address in listening} == {"127.0.0.1"}
    assert len(set(family()) - others) <= 1  # multiprocessing's resource tracker stays
    assert days.section(found, its_plan) == days.section(alone, its_plan)
    assert days.data_section(found) == days.data_section(alone)


def test_a_file_that_always_kills_its_worker_is_set_aside(monkeypatch):
    monkeypatch.setitem(days.LOCAL_DASK, "distributed.scheduler.allowed-failures", 0)
    files = [File(str(i), "") for i in range(4)]  # so few that Dask hands them all out at once
    found = days.run(files, kills_its_worker, "local")
    assert [day.why_not for day in found] == [
        *["not evaluated"] * 3,
        "3: a worker that evaluates it dies each time, alone too",
    ]


def test_a_scheduler_with_one_worker_gives_the_bytes_of_the_sequential_run(folder, capsys):
    with scheduler(folder) as address:
        its_plan = plan()
        files = days.find("days/*")
        finished = []
        found = days.run(
            files,
            partial(slow_first, its_plan=its_plan, seconds=0.2),
            address,
            lambda day: finished.append(day.name),
        )
        assert [day.name for day in found] == sorted(finished)
        run("--dask", address, out="dask")
        with pytest.raises(UsageError):
            days.run(files[:1], plan("--time-zone", "Moon/Base"), address)
    run(out="here")
    assert but_run("dask") == but_run("here")


def test_an_address_where_nobody_answers_is_an_error(folder, monkeypatch):
    monkeypatch.setattr(days, "CONNECT_S", 0.5)
    with pytest.raises(SorError, match="must be the address of a Dask scheduler"):
        days.run(days.find("days/*"), plan(), "tcp://127.0.0.1:9")


def test_a_scheduler_without_a_worker_is_an_error(folder, monkeypatch):
    with scheduler(folder, workers=0) as address:
        monkeypatch.setattr(days, "CONNECT_S", 3)
        with pytest.raises(SorError, match="no worker in 3 s"):
            days.run(days.find("days/*"), plan(), address)


@pytest.mark.parametrize(
    ("number", "to_the_group", "word"),
    [
        (signal.SIGINT, False, "interrupted"),
        (signal.SIGINT, True, "interrupted"),
        (signal.SIGTERM, False, "terminated"),
        (signal.SIGTERM, True, "terminated"),
    ],
)
def test_ctrl_c_and_sigterm_end_the_workers(folder, number, to_the_group, word):
    words = ["--days", "days/*", "--dask", "local", "--out", "out", *SMALL, *FULL_DAY]
    for day in range(1, DAYS + 1):
        text = day_text(day, seconds=3000)
        Path(f"days/2024-08-{day:02}.csv.gz").write_bytes(gzip.compress(text.encode()))
    program = subprocess.Popen(
        [sys.executable, ROOT / "backtest.py", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    workers = busy_workers(program)
    (os.killpg if to_the_group else os.kill)(program.pid, number)
    err = program.communicate(timeout=60)[1]
    assert program.returncode == 128 + number
    assert err.rstrip().endswith(word)
    assert "Traceback" not in err
    psutil.wait_procs(workers, timeout=5)
    assert not any(each.is_running() for each in workers)
    assert not Path("out/output.json").exists()


def busy_workers(program):
    """The worker processes of a program, once they have work."""
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        workers = [each for each in psutil.Process(program.pid).children() if "spawn_main" in " ".join(each.cmdline())]
        if workers and all(each.cpu_times().user > 2 for each in workers):
            return workers
        time.sleep(0.05)
    raise AssertionError(program.communicate()[1])
