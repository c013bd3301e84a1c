"""--verify: a report is equal to what its data give, or every difference is named, or what stands in the way is, in one line."""

import gzip
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import backtest
from sor import verify

HEADER = "ts_event,publisher_id,symbol,action,side,price,size,bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,sequence\n"
ROW = "2024-08-{day:02}T14:00:{second:02}.000000000Z,2,SIM,A,B,0,0,100.0,100.02,100,400,{second}\n"
FLAGS = ["--order-size", "300", "--lambda-over", "0.1,0.2", "--lambda-under", "0.3", "--theta-queue", "0,0.5"]
WINDOWS = ["--slice-s", "5", "--evaluation-window-s", "10", "--evaluation-stride-s", "10", "--evaluation-skip-s", "0"]


def day_text(day=1):
    return HEADER + "".join(ROW.format(day=day, second=second) for second in range(30))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A day, and out/output.json of it."""
    made = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        Path("day.csv").write_text(day_text())
        assert backtest.main(["--csv", "day.csv", "--out", "out", *FLAGS]) == 0
    return made


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A folder of its own to work in, with what was made."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def report(path="out/output.json"):
    return json.loads(Path(path).read_text())


def changed(change):
    """The path of the report after `change(report)`."""
    recorded = report()
    change(recorded)
    Path("changed.json").write_text(json.dumps(recorded))
    return "changed.json"


def verified(capsys, *words, path="out/output.json"):
    """(exit code, stdout's lines, the error lines of stderr)."""
    capsys.readouterr()
    code = backtest.main(["--verify", str(path), *words])
    out, err = capsys.readouterr()
    return code, out.splitlines(), [line for line in err.splitlines() if line.startswith("error: ")]


def test_a_report_is_equal_and_no_file_is_written(folder, capsys):
    before = sorted(folder.rglob("*")), Path("out/output.json").read_bytes()
    code, lines, _ = verified(capsys)
    assert code == 0
    assert lines == [f"equal: out/output.json is what day.csv gives, {verify.count({**report(), 'run': {}})} values"]
    assert (sorted(folder.rglob("*")), Path("out/output.json").read_bytes()) == before


def test_the_data_are_found_beside_the_report_or_given(folder, capsys, monkeypatch):
    shutil.move("day.csv", "out/day.csv")
    assert verified(capsys)[0] == 0
    shutil.move("out/day.csv", "elsewhere.csv")
    assert verified(capsys)[0] == 1
    assert verified(capsys, "--csv", "elsewhere.csv")[0] == 0


def test_neither_flags_nor_the_environment_change_what_is_computed(folder, capsys, monkeypatch):
    monkeypatch.setenv("SOR_ORDER_SIZE", "7")
    monkeypatch.setenv("SOR_STRICT", "1")
    monkeypatch.setenv("SOR_REJECTS", "rejects.csv")
    assert verified(capsys)[0] == 0
    assert not Path("rejects.csv").exists()


def test_run_is_not_compared_but_other_versions_are_told(folder, capsys):
    def other(recorded):
        recorded["run"] = {"versions": {**recorded["run"]["versions"], "numpy": "1.0"}, "anything": [1]}

    capsys.readouterr()
    assert backtest.main(["--verify", changed(other)]) == 0
    assert 'made with other versions: numpy "1.0" (now ' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda r: r["optimized"].update(total_cash=1.5), "optimized.total_cash: recorded 1.5, computed 30006."),
        (lambda r: r["optimized"].update(fills=1.0), "optimized.fills: recorded 1.0, computed 1"),
        (lambda r: r["optimized"].pop("fees"), "optimized.fees: recorded nothing, computed 0."),
        (lambda r: r.update(more={"a": 1}), "more: recorded an object of 1, computed nothing"),
        (lambda r: r.update({"a\x1b[2J": 1}), '"a\\u001b[2J": recorded 1, computed nothing'),
        (lambda r: r["data"]["span"].append(None), "data.span[2]: recorded null, computed nothing"),
        (lambda r: r.update(evaluation=None), "evaluation: recorded null, computed an object of 13"),
        (lambda r: r["settings"].update(seed="1"), 'settings.seed: recorded "1", computed 1'),
    ],
)
def test_a_changed_value_is_named_with_both_values(folder, capsys, change, line):
    code, lines, _ = verified(capsys, path=changed(change))
    assert (code, len(lines)) == (1, 1)
    assert lines[0].startswith(line)


def test_twenty_differences_are_shown_and_all_counted(folder, capsys):
    code, lines, _ = verified(capsys, path=changed(lambda recorded: recorded["settings"].update(order_size=100)))
    assert (code, len(lines)) == (1, 21)
    assert "optimized.total_cash: recorded 30006.9, computed 10002.3" in lines
    assert lines[-1].startswith("... ")
    assert lines[-1].endswith(" differences in all")


def test_changed_data_are_told_before_anything_is_computed(folder, capsys):
    Path("day.csv").write_text(day_text() + ROW.format(day=1, second=31))
    code, lines, errors = verified(capsys)
    assert (code, lines, len(errors)) == (1, [], 1)
    assert "day.csv: the data are not those of the report: sha256 is " in errors[0]


def test_another_venue_table_is_told(folder, capsys):
    shipped = backtest.SHIPPED_VENUES.read_text()
    Path("venues.toml").write_text(shipped + "\n# a word more\n")
    code, lines, errors = verified(capsys, "--venues", "venues.toml")
    assert (code, lines) == (1, [])
    assert "venues.toml: the venue table is not that of the report" in errors[0]


@pytest.mark.parametrize(
    ("change", "tells"),
    [
        (lambda r: r.pop("settings"), "has no section 'settings'"),
        (lambda r: r.update(data=[]), "has no section 'data'"),
        (lambda r: r["settings"].pop("seed"), "settings lacks ['seed']"),
        (lambda r: r["settings"].update(x=1), "settings has ['x']"),
        (lambda r: r["settings"].update(order_size=-5), "order_size (settings) is -5; it must be"),
        (lambda r: r["settings"].update(order_size={"a": 1}), "order_size (settings) is {'a': 1}; it must be"),
        (lambda r: r["settings"].update(lambda_over=[]), "lambda_over (settings) is []; it must be"),
        (lambda r: r["settings"].update(start_time="17:00"), "the start must be before the end"),
        (lambda r: r["settings"].update(time_zone="Moon/Base"), "time_zone is 'Moon/Base'"),
        (lambda r: r["data"].update(sha256="x"), 'data.sha256 is "x"; it must be'),
        (lambda r: r["data"].update(file="../../etc/passwd"), 'data.file is "../../etc/passwd"; it must be'),
        (lambda r: r["data"].update(file=None), "data.file is null; it must be"),
        (lambda r: r["data"].update(file="gone.csv"), "gone.csv is neither beside"),
        (lambda r: r["data"].update(venue_table_sha256=None), "the venue table is not that of the report"),
        (lambda r: r["run"].update(whole=False), "is of a run that was not whole"),
        (lambda r: r["data"].update(files=[]), "is of many files; give the pattern"),
    ],
)
def test_a_report_that_cannot_be_computed_again_is_one_line(folder, capsys, change, tells):
    code = backtest.main(["--verify", changed(change)])
    err = capsys.readouterr().err
    assert code in (1, 2)
    (error,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert tells in error


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"settings": NaN, "data": {}}', b"[" * 200_000, b"9" * 10_000,
        b'{"settings": {}, "settings": {}, "data": {}}', b'{"settings": {}, "data": {}}', b"\0" * 100,
    ],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_what_is_no_report_is_one_line(folder, capsys, text):
    Path("hostile.json").write_bytes(text)
    code, lines, errors = verified(capsys, path="hostile.json")
    assert (code, lines, len(errors)) == (1, [], 1)
    assert len(errors[0]) < 400


@pytest.mark.parametrize("path", ["missing.json", ".", "out"])
def test_a_file_that_cannot_be_read_is_one_line(folder, capsys, path):
    assert verified(capsys, path=path)[2][0].startswith(f"error: {path}: cannot be read: ")


def test_a_pipe_is_not_waited_for(folder, capsys):
    os.mkfifo("pipe")
    code, lines, errors = verified(capsys, path="pipe")
    assert (code, lines) == (1, [])
    assert errors == ["error: pipe: cannot be read: it is a pipe; it must be an output.json of backtest.py"]


@pytest.mark.parametrize("words", [["--order-size", "5"], ["--show"], ["--strict"], ["--doctor"], ["--seed", "1"]])
def test_flags_that_the_report_answers_are_wrong_usage(folder, capsys, words):
    with pytest.raises(SystemExit) as stopped:
        backtest.main(["--verify", "out/output.json", *words])
    assert stopped.value.code == 2
    assert f"{words[0]} must not be given with --verify" in capsys.readouterr().err


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    """The path of everything in a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [found for key, child in children for found in places(child, (*path, key))]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_value_in_any_place_is_told_without_a_traceback(folder, capsys, data):
    recorded = report()
    *above, last = data.draw(st.sampled_from(places(recorded)))
    value = data.draw(JSON)
    inside = recorded
    for key in above:
        inside = inside[key]
    is_same = json.dumps(inside[last]) == json.dumps(value)
    inside[last] = value
    Path("changed.json").write_text(json.dumps(recorded))
    code, lines, errors = verified(capsys, path="changed.json")
    if (*above, last)[0] == "run" or is_same:
        assert code == 0 or errors
    else:
        assert code in (1, 2)
        assert bool(lines) != bool(errors)


# --- many days ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path, monkeypatch):
    """A folder with the report of three days."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "days").mkdir()
    for day in (1, 2, 3):
        (tmp_path / "days" / f"{day}.csv.gz").write_bytes(gzip.compress(day_text(day).encode(), mtime=0))
    (tmp_path / "days" / "bad.csv.gz").write_text("no data\n")
    assert backtest.main(["--days", "days/*", "--out", "out", *FLAGS, *WINDOWS]) == 0
    return tmp_path


def test_a_report_of_many_days_is_equal(many, capsys):
    assert verified(capsys, "--days", "days/*")[:2] == (
        0,
        [f"equal: out/output.json is what days/* gives, {verify.count({**report(), 'run': {}})} values"],
    )
    assert verified(capsys, "--days", "days/*", path=changed(lambda r: r["data"].update(rows=1)))[1] == [
        "data.rows: recorded 1, computed 90"
    ]


def test_files_of_other_days_are_told(many, capsys):
    assert "give the pattern that finds them with --days" in verified(capsys)[2][0]
    assert (
        "3 files are not found by --days: 2.csv.gz, 3.csv.gz, bad.csv.gz"
        in (verified(capsys, "--days", "days/1*")[2][0])
    )
    shutil.copy("days/1.csv.gz", "days/4.csv.gz")
    assert "1 files are found by --days, but not in the report: 4.csv.gz" in verified(capsys, "--days", "days/*")[2][0]
    shutil.move("days/4.csv.gz", "days/2.csv.gz")
    assert "1 files are not those of the report (sha256): 2.csv.gz" in verified(capsys, "--days", "days/*")[2][0]
