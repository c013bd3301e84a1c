"""Bad files and bad messages through the real programs: what is bad is set aside and counted, or one line says why not."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
from functools import partial

import pytest

import kafka_producer
from benchmarks import fuzz
from sor import contract, feed
from sor.contract import END, SCHEMA_VERSION, START, EndRecord, StartRecord
from sor.events import Checker
from tests.integration.terminals import GRID, PY, ROOT, but_run, done
from tests.test_feed import SECOND_NS, refusal

QUICK = ["--evaluate", "off"]


def last_line(process, code=1):
    """The one line of an error that ends a program."""
    out, err = done(process, code)
    assert out == ""
    said = err.splitlines()
    assert sum(line.startswith("error: ") for line in said) == 1
    return next(line for line in said if line.startswith("error: "))


# --- files --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A file, and the same with one row in a hundred damaged, in every kind."""
    return fuzz.write_pair(tmp_path_factory.mktemp("pair"), fuzz.CSV, damaged=44, every=99, draw=random.Random(5))


def test_one_row_in_a_hundred_damaged_in_every_kind_changes_nothing(terminals, pair):
    processes = [
        terminals.backtest(out, "--csv", path, *QUICK) for out, path in (("a", pair.clean), ("b", pair.damaged))
    ]
    for process in processes:
        done(process)
    clean, damaged = terminals.output("a"), terminals.output("b")
    rejects = damaged["data"].pop("rejects")
    assert rejects == {kind: {"count": 4, "first_line": lines[0]} for kind, lines in pair.injected.items()}
    assert clean["data"].pop("rejects") == {}
    for name in ("file", "sha256"):
        assert clean["data"].pop(name) != damaged["data"].pop(name)
    assert but_run(clean) == but_run(damaged)


def test_damaged_rows_are_counted_the_same_through_kafka(terminals, pair):
    direct = terminals.backtest("a", "--csv", pair.damaged, *QUICK)
    _, err = done(terminals.producer(pair.damaged, "--rejects", "rejects.csv"))
    assert "44 rows set aside (" in err
    assert len((terminals.folder / "rejects.csv").read_bytes().splitlines()) > 44
    done(terminals.backtest("b", *QUICK))
    done(direct)
    assert but_run(terminals.output("a")) == but_run(terminals.output("b"))
    assert terminals.output("b")["run"]["whole"]


def test_days_sets_bad_files_aside_and_evaluates_the_others(terminals, pair):
    folder = terminals.folder / "days"
    folder.mkdir()
    good = pair.clean.read_bytes()
    (folder / "a_good.csv").write_bytes(good)
    (folder / "b_empty.csv").touch()
    (folder / "c_cut.csv.gz").write_bytes(gzip.compress(good)[:-500])
    (folder / "d_semicolons.csv").write_bytes(good.replace(b",", b";"))
    (folder / "e.parquet").write_bytes(good)
    (folder / "f_folder.csv").mkdir()
    os.mkfifo(folder / "g_pipe.csv")
    windows = ["--evaluation-window-s", "300", "--evaluation-stride-s", "300", "--evaluation-skip-s", "0"]
    _, err = done(terminals.start("backtest.py", "--days", folder / "*", "--out", "out", *GRID, *windows))
    assert [line.split(": ")[2] for line in err.splitlines() if "set aside: " in line] == [
        *("b_empty.csv", "c_cut.csv.gz", "d_semicolons.csv", "e.parquet")
    ]
    output = terminals.output("out")
    assert [each["file"] for each in output["data"]["files"]] == ["a_good.csv"]
    assert len(output["data"]["set_aside"]) == 4


def rows_of(content: bytes) -> bytes:
    return content.partition(b"\n")[2]


UNUSABLE = {  # name: what is written, made of a good file, and what the error says
    "empty": (lambda good: b"", "there is no header"),
    "header only": (lambda good: good[: good.index(b"\n") + 1], "holds no usable row"),
    "no header": (rows_of, "the header lacks ts_event"),
    "semicolons": (lambda good: good.replace(b",", b";"), "the header lacks ts_event"),
    "tabs": (lambda good: good.replace(b",", b"\t"), "the header lacks ts_event"),
    "UTF-16": (lambda good: good.decode().encode("utf-16"), "the header lacks ts_event"),
    "gzip truncated": (
        lambda good: gzip.compress(good)[:-1_000],
        "cannot be read to its end: Compressed file ended before",
    ),
    "gzip damaged": (lambda good: gzip.compress(good)[:-6] + b"\0" * 6, "cannot be read to its end: CRC check failed"),
    "a line twice as header": (lambda good: good.replace(b"\n", b",price\n"), "the header has more than once price"),
    "zeros": (lambda good: bytes(1_000_000), "the header lacks ts_event"),
}


@pytest.mark.parametrize(("made", "says"), UNUSABLE.values(), ids=UNUSABLE.keys())
def test_file_of_no_use_ends_both_programs_with_one_line(terminals, pair, made, says):
    path = terminals.folder / "day.csv"
    path.write_bytes(made(pair.clean.read_bytes()))
    processes = [terminals.backtest("a", "--csv", path), terminals.producer(path)]
    for process in processes:
        assert last_line(process).startswith(f"error: {path}: {says}")
    assert not (terminals.folder / "a" / "output.json").exists()


@pytest.mark.parametrize("kind", ["folder", "missing", "below a file", "FIFO", "endless device", "name too long"])
def test_what_is_no_file_ends_both_programs_with_one_line(terminals, pair, kind):
    path = {
        "folder": terminals.folder,
        "missing": terminals.folder / "none" / "day.csv",
        "below a file": pair.clean / "day.csv",
        "FIFO": terminals.folder / "pipe.csv",
        "endless device": "/dev/zero",
        "name too long": terminals.folder / ("x" * 300),
    }[kind]
    if kind == "FIFO":
        os.mkfifo(path)
    processes = [terminals.backtest("a", "--csv", path), terminals.producer(path)]
    for process in processes:
        assert last_line(process).startswith(f"error: {path}: cannot be read to its end: ")


@pytest.mark.parametrize("kind", ["FIFO", "endless device"])
def test_venue_table_that_is_no_file_ends_the_program_with_one_line(terminals, pair, kind):
    path = terminals.folder / "pipe" if kind == "FIFO" else "/dev/zero"
    if kind == "FIFO":
        os.mkfifo(path)
    line = last_line(terminals.backtest("a", "--csv", pair.clean, "--venues", path), 2)
    assert line == f"error: {path}: is not a file; it must be a venue table"


def test_file_that_may_not_be_read(tmp_path, pair, capsys):
    path = tmp_path / "day.csv"
    path.write_bytes(pair.clean.read_bytes())
    path.chmod(0)
    was = os.geteuid()
    if was == 0:  # whom no mode stops
        os.seteuid(65_534)
    try:
        assert kafka_producer.main(["--csv", str(path)]) == 1
        assert "Permission denied; it must be a CSV file" in refusal(path)
    finally:
        os.seteuid(was)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: cannot be read to its end: Permission denied; it must be")


def test_byte_order_mark_and_line_ends_of_windows_change_nothing(terminals, pair):
    good = pair.clean.read_bytes()
    path = terminals.folder / "clean.csv"
    path.write_bytes(b"\xef\xbb\xbf" + good.replace(b"\n", b"\r\n"))
    processes = [terminals.backtest(out, "--csv", file, *QUICK) for out, file in (("a", pair.clean), ("b", path))]
    for process in processes:
        done(process)
    plain, marked = terminals.output("a"), terminals.output("b")
    assert plain["data"].pop("sha256") != marked["data"].pop("sha256")
    assert but_run(plain) == but_run(marked)


def test_conversion_of_what_cannot_be_converted_says_so_and_leaves_nothing(tmp_path):
    (tmp_path / "day.csv").touch()
    done = subprocess.run(
        [PY, "-m", "sor.feed", "--to-parquet", str(tmp_path / "day.csv")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"error: {tmp_path / 'day.csv'}: there is no header")
    assert os.listdir(tmp_path) == ["day.csv"]


# --- messages -----------------------------------------------------------------------------------------------------------


def test_hostile_messages_are_each_counted_and_the_report_is_that_of_the_file(tmp_path, kafka, topic):
    table = fuzz.message_rows(tmp_path, kafka.bootstrap, 300, random.Random(3), 5_000, topic)
    assert [row for row in table if not row["ok"]] == []
    assert table[-1]["found"] == 300


def test_damaged_rows_at_scale_in_small(tmp_path):
    table = fuzz.file_rows(tmp_path, 20_000, random.Random(3))
    assert [row for row in table if not row["ok"]] == []


@pytest.fixture
def send(kafka, topic):
    """Puts messages on the topic of the test as a program other than ours would."""
    return partial(fuzz.send, fuzz.new_topic(kafka.bootstrap, topic))


def start(run_id="r1", rows=2, version=SCHEMA_VERSION):
    record = StartRecord(
        run_id=run_id, file="day.csv", sha256="", schema_version=version, symbols=["SIM"], rows=rows, speed=0.0
    )
    return fuzz.Sent(contract.encode_record(record), contract.record_headers(run_id, START))


def whole_run(payloads):
    """Start record, rows and the right end record."""
    end = EndRecord(run_id="r1", rows_sent=len(payloads), rejects={}, disordered=0, crc32=contract.crc32(payloads))
    rows = [fuzz.Sent(payload, contract.row_headers("r1", number)) for number, payload in enumerate(payloads)]
    last = fuzz.Sent(contract.encode_record(end), contract.record_headers("r1", END))
    return [start(rows=len(payloads)), *rows, last]


def row(number, run_id="r1", timestamp_ms=None):
    return fuzz.Sent(fuzz.GOOD, contract.row_headers(run_id, number), timestamp_ms)


def test_run_of_another_schema_version_is_not_reported_and_the_reader_is_told(terminals, send):
    send([start(version=2), row(0), row(1)])
    line = last_line(terminals.backtest("a", "--timeout", "1"))
    assert line.startswith("error: no run to report came on topic ")
    assert "(1 start record(s) are damaged, or of another version of this program)" in line


@pytest.mark.parametrize("at_ms", [2**53, 0], ids=["far future", "1970"])
def test_silent_run_whose_kafka_times_are_wrong_ends_in_time(terminals, send, at_ms):
    send([start(), row(0, timestamp_ms=at_ms)])
    process = terminals.backtest("a", "--timeout", "4")
    line = last_line(process)
    assert line.startswith("error: run r1 is not whole: no end record after 1 of 2 rows")


def test_row_of_a_far_future_time_is_set_aside(terminals, send, day):
    """Of a producer that does not check its rows: the run is whole, and the row not believed."""
    good = [payload for block in feed.good_blocks(day, Checker(SECOND_NS)) for payload in contract.encode_rows(block)]
    future = good[100].replace(b"2024-08-05T", b"2031-08-05T")
    payloads = [*good[:100], future, *good[101:]]
    send(whole_run(payloads))
    done(terminals.backtest("a", *QUICK))
    output = terminals.output("a")
    assert output["run"]["messages_set_aside"] == {"out_of_order": {"count": 1, "first_line": 100}}
    assert output["data"]["rows"] == len(payloads) - 1


def test_run_of_nothing_but_hostile_rows_is_one_line(terminals, send):
    bad = [payload for _, payload in fuzz.NONSENSE.values() if payload and len(payload) < 1_000]
    send(whole_run(bad))
    assert last_line(terminals.backtest("a")).startswith("error: run r1 holds no usable row; row 0: undecodable")


class NoUtf8(str):
    """A header key of bytes that are no UTF-8, which Kafka's own client would refuse to send."""

    def encode(self, *_):
        return b"\xff\xfe"


def test_message_that_no_python_client_can_unpack_is_one_line(terminals, send):
    send([start(), fuzz.Sent(b"x", [(NoUtf8("run"), b"r1")])])
    line = last_line(terminals.backtest("a", "--timeout", "5"))
    assert line.startswith(f"error: reading topic {terminals.topic} failed at offset ")
    assert line.endswith("cannot be unpacked: have it deleted, or use another topic (KAFKA_TOPIC)")


def test_message_packed_with_a_codec_that_is_not_installed_is_one_line(terminals, kafka, send):
    send([start()])
    kafka.tool(
        "console-producer",
        "--topic",
        terminals.topic,
        "--compression-codec",
        "zstd",
        stdin="hello hello hello hello\n" * 50,
    )
    line = last_line(terminals.backtest("a", "--timeout", "5"))
    assert line.startswith(f"error: reading topic {terminals.topic} failed at offset ")
    assert "UnsupportedCodecError" in line
