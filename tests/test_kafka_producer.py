"""The producer without a broker: the schedule of a run, what is announced, and how its messages are framed."""

import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import config
import kafka_producer
from kafka_producer import Pace, RunSender, main, new_run_id
from sor import contract, feed
from sor.contract import EndRecord, StartRecord
from sor.errors import FeedError
from sor.events import Checker

HEADER = "ts_event,publisher_id,symbol,action,side,price,size,bid_px_00,ask_px_00,bid_sz_00,ask_sz_00,sequence\n"
ROWS = (
    "2024-08-01T13:30:00.000000000Z,2,SIM,A,B,100.0,100,100.0,100.02,100,200,1\n"
    "2024-08-01T13:30:00.000000000Z,3,SIM,A,B,99.99,100,99.99,100.03,100,300,2\n"
    "2024-08-01T13:30:02.000000000Z,2,SIM,T,B,100.02,50,100.0,100.02,100,150,3\n"
)
S = 10**9


class Clock:
    """A clock that only sleeping, or `busy_s` at every look, moves; it remembers every sleep."""

    def __init__(self, busy_s: float = 0.0) -> None:
        self.now_s, self.busy_s, self.slept_s = 100.0, busy_s, []

    def __call__(self) -> float:
        self.now_s += self.busy_s
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_s += seconds


class Collector:
    """Takes messages as `stream.Sender` does."""

    def __init__(self) -> None:
        self.messages: list = []

    def send(self, messages) -> None:
        self.messages += messages

    def make_room(self) -> None:
        pass

    def flush(self, timeout_s: float = 0.0) -> None:
        pass


def schedule(ts_s, *, speed, max_gap_s=1.0, clock=None):
    """(seconds after the start, rows) of every group that leaves."""
    clock = clock or Clock()
    pace = Pace(speed, max_gap_s, clock.sleep, clock)
    start_s = clock.now_s
    ts_ns = np.array([round(second * S) for second in ts_s])
    return [(round(clock.now_s - start_s, 9), stop - start) for start, stop in pace.groups(ts_ns)]


@pytest.fixture
def csv_file(tmp_path):
    """A file of the given text."""

    def write(text):
        path = tmp_path / "day.csv"
        path.write_text(text)
        return str(path)

    return write


def test_rows_leave_as_far_apart_as_their_times_say():
    assert schedule([5.0, 5.0, 5.25, 5.75], speed=1) == [(0.0, 2), (0.25, 1), (0.75, 1)]


def test_speed_divides_the_gaps():
    assert schedule([0.0, 1.0, 3.0], speed=4) == [(0.0, 1), (0.25, 1), (0.75, 1)]


def test_a_long_gap_is_capped_after_division():
    assert schedule([0, 10, 12], speed=4, max_gap_s=2) == [(0.0, 1), (2.0, 1), (2.5, 1)]


def test_speed_zero_never_sleeps():
    clock = Clock()
    assert schedule([0, 1000, 2000], speed=0, clock=clock) == [(0.0, 3)]
    assert clock.slept_s == []


def test_a_row_out_of_order_goes_at_once_and_the_next_waits_from_the_newest_time():
    assert schedule([0.0, 1.0, 0.5, 1.5], speed=1) == [(0.0, 1), (1.0, 2), (1.5, 1)]


def test_what_is_late_goes_together_and_the_schedule_is_kept():
    clock = Clock()
    pace = Pace(1, 1.0, clock.sleep, clock)
    groups = pace.groups(np.array([0, S // 2, S, 3 * S // 2]))
    assert next(groups) == (0, 1)
    clock.now_s += 1.2  # sending the first row took that long
    assert next(groups) == (1, 3)
    assert pace.lag_s == pytest.approx(0.7)
    assert next(groups) == (3, 4)
    assert clock.slept_s == [pytest.approx(0.3)]
    assert pace.lag_s == 0


def test_the_gap_between_two_blocks_is_kept():
    clock = Clock()
    pace = Pace(1, 1.0, clock.sleep, clock)
    assert list(pace.groups(np.array([0, S // 4]))) == [(0, 1), (1, 2)]
    assert list(pace.groups(np.array([S // 2]))) == [(0, 1)]
    assert clock.slept_s == [0.25, 0.25]


def test_a_clock_that_runs_on_between_two_looks_never_makes_a_wait_negative():
    clock = Clock(busy_s=0.3)
    schedule([0.0, 0.4, 0.8, 2.0], speed=1, clock=clock)
    assert min(clock.slept_s) > 0


@given(
    gaps_ms=st.lists(st.integers(-50, 3_000), min_size=1, max_size=400),
    speed=st.sampled_from([0.0, 0.5, 1.0, 400.0]),
    max_gap_s=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_every_row_leaves_once_in_order_and_never_before_it_is_due(gaps_ms, speed, max_gap_s):
    ts_ns = np.cumsum(gaps_ms) * 10**6 + 10**15
    clock = Clock(busy_s=0.001)
    pace = Pace(speed, max_gap_s, clock.sleep, clock)
    due_s, newest = clock.now_s, ts_ns[0]
    rows = 0
    for start, stop in pace.groups(ts_ns):
        assert start == rows < stop
        rows = stop
        for ts in ts_ns[start:stop]:
            due_s += min(max(0, ts - newest) / S / speed, max_gap_s) if speed else 0
            newest = max(newest, ts)
            assert clock.now_s >= due_s - 1e-6
    assert rows == len(ts_ns)
    assert all(wait_s <= max_gap_s for wait_s in clock.slept_s)


def test_messages_are_numbered_counted_and_summed_over_blocks(csv_file):
    path = csv_file(HEADER + ROWS * 300)
    sender, checker = Collector(), Checker(10 * S)
    run = RunSender("abc", sender)
    pace = Pace(0, 1.0)
    for rows in feed.read_blocks(path, chunk_rows=350):
        assert sum(run.send_block(checker.good(rows), pace)) == len(rows)
    run.finish(checker, aborted="because")
    *messages, (end, end_headers) = sender.messages
    assert [headers for _, headers in messages] == [[("run", b"abc"), ("row", b"%d" % i)] for i in range(900)]
    assert end_headers == [("run", b"abc"), ("record", b"end")]
    record = contract.decode_record(end, EndRecord)
    assert (record.run_id, record.rows_sent, record.aborted) == ("abc", 900, "because")
    assert record.crc32 == zlib.crc32(b"".join(payload for payload, _ in messages))
    assert [msgspec.json.decode(payload)["sequence"] for payload, _ in messages] == [1, 2, 3] * 300


def test_a_file_that_changes_while_it_is_sent_fails_and_the_topic_is_told(csv_file):
    sender = Collector()
    start = StartRecord(run_id="abc", file="", sha256="", schema_version=1, symbols=["SIM"], rows=4, speed=0.0)
    settings = config.Settings(csv_path=csv_file(HEADER + ROWS), speed=0.0)
    with pytest.raises(FeedError, match="held 4 rows, now 3; it must not change while it is sent"):
        kafka_producer._send_run(settings, start, sender)
    end = contract.decode_record(sender.messages[-1][0], EndRecord)
    assert (end.rows_sent, "held 4 rows" in end.aborted) == (3, True)


def test_a_whole_run_is_start_rows_end(csv_file):
    sender = Collector()
    start = StartRecord(run_id="abc", file="", sha256="", schema_version=1, symbols=["SIM"], rows=3, speed=0.0)
    kafka_producer._send_run(config.Settings(csv_path=csv_file(HEADER + ROWS), speed=0.0), start, sender)
    assert [headers[1][0] for _, headers in sender.messages] == ["record", "row", "row", "row", "record"]
    assert contract.decode_record(sender.messages[0][0], StartRecord) == start


def test_the_payload_is_readable_json_in_databento_names(csv_file):
    sender = Collector()
    run = RunSender("abc", sender)
    for rows in feed.read_blocks(csv_file(HEADER + ROWS)):
        list(run.send_block(rows, Pace(0, 1.0)))
    assert sender.messages[2][0].decode() == (
        '{"ts_event":"2024-08-01T13:30:02.000000000Z","publisher_id":2,"symbol":"SIM","action":"T","side":"B",'
        '"price":100.02,"size":50,"bid_px_00":100.0,"ask_px_00":100.02,"bid_sz_00":100,"ask_sz_00":150,"sequence":3}'
    )


def test_run_ids_are_new_and_fit_the_setting():
    ids = {new_run_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(run_id) <= 64 and run_id.replace("-", "").isalnum() for run_id in ids)


NO_BROKER = ["--kafka-bootstrap-servers", "127.0.0.1:1"]


@pytest.fixture
def no_broker(monkeypatch):
    """Let a client give up at once where nothing listens."""
    topic = kafka_producer.stream.Topic
    quick = property(lambda self: {"bootstrap_servers": self.servers.split(","), "bootstrap_timeout_ms": 50})
    monkeypatch.setattr(topic, "client", quick)


def test_what_will_be_sent_is_said_first_even_without_a_broker(csv_file, capsys, no_broker):
    bad = "2024-08-01T13:30:03.000000000Z,2,SIM,A,B,100.0,100,-1,100.02,100,200,4\n"
    assert main(["--csv", csv_file(HEADER + ROWS + bad), "--show", *NO_BROKER]) == 1
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert lines[0] == "day.csv: 3 rows, 2 timestamps, symbols SIM, 2 venues (2, 3)"
    assert lines[1] == "from 2024-08-01T13:30:00.000000000Z to 2024-08-01T13:30:02.000000000Z (2 s)"
    assert lines[2].startswith("1 rows set aside (negative_or_infinite 1); the first is line 5: negative or infinite")
    assert lines[3].startswith("error: no Kafka broker answers at 127.0.0.1:1 (")
    assert "make broker-start" in lines[3]
    assert len(lines) == 4
    shown = out.splitlines()
    assert [msgspec.json.decode(line)["sequence"] for line in shown[:-1]] == [1, 2, 3]
    assert shown[-1] == "2 distinct timestamps"


def test_show_prints_five_rows_of_many(csv_file, capsys, no_broker):
    main(["--csv", csv_file(HEADER + ROWS * 3), "--show", "--max-disorder", "9", *NO_BROKER])
    assert [msgspec.json.decode(line)["sequence"] for line in capsys.readouterr().out.splitlines()[:-1]] == [
        1,
        2,
        3,
        1,
        2,
    ]


def test_small_disorder_is_announced(csv_file, capsys, no_broker):
    late = "2024-08-01T13:30:01.500000000Z,2,SIM,A,B,100.0,100,100.0,100.02,100,200,4\n"
    main(["--csv", csv_file(HEADER + ROWS + late), *NO_BROKER])
    assert "1 rows are a little out of order, kept in file order" in capsys.readouterr().err


def test_rejects_are_kept_in_a_file(csv_file, tmp_path, no_broker):
    kept = tmp_path / "rejects.csv"
    bad = "2024-08-01T13:30:03.000000000Z,2,SIM,X,B,100.0,100,1,100.02,100,200,4\n"
    main(["--csv", csv_file(HEADER + ROWS + bad), "--rejects", str(kept), *NO_BROKER])
    assert kept.read_text().splitlines() == ["line,kind,row", f'5,unknown_action,"{bad.strip()}"']


def test_strict_stops_at_the_first_bad_row_before_anything_is_sent(csv_file, capsys):
    bad = "2024-08-01T13:30:03.000000000Z,2,SIM,X,B,100.0,100,1,100.02,100,200,4\n"
    assert main(["--csv", csv_file(HEADER + bad + ROWS), "--strict", *NO_BROKER]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: strict: line 2: unknown action")
    assert err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "hello\n", HEADER, HEADER + "a,b\n", "\0\0\0"])
def test_a_file_without_a_usable_row_is_one_line_and_exit_1(csv_file, capsys, text):
    assert main(["--csv", csv_file(text), *NO_BROKER]) == 1
    assert capsys.readouterr().err.count("\n") == 1
