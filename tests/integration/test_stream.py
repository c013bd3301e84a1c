"""sor.stream and backtest.py on a real broker, message by message: what is not of a whole run is counted or reported."""

import json
import re
from pathlib import Path

import pytest

import backtest
from sor import contract, stream
from sor.audit import RunAudit
from sor.contract import END, SCHEMA_VERSION, START, EndRecord, StartRecord
from sor.errors import StreamError
from sor.stream import Reader, Sender, Topic, ensure_topic

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def there(kafka, topic):
    """A fresh topic of the session's broker."""
    there = Topic(kafka.bootstrap, topic)
    ensure_topic(there)
    return there


def quote(i, **other):
    """Row `i` as a payload: two venues in turn, one row a second from 10:00 New York."""
    at = f"2024-08-01T14:{i // 60:02}:{i % 60:02}.000000000Z"
    row = {
        "ts_event": at, "publisher_id": 2 + i % 2, "symbol": "SIM", "action": "A", "side": "B", "price": 100.0,
        "size": 100, "bid_px_00": 100.0, "ask_px_00": 100.02 + i % 3 / 100, "bid_sz_00": 100, "ask_sz_00": 400, "sequence": i,
    }  # fmt: skip
    return json.dumps(row | other).encode()


def start_of(run_id, rows):
    start = StartRecord(
        run_id=run_id,
        file="made.csv",
        sha256="0" * 64,
        schema_version=SCHEMA_VERSION,
        symbols=["SIM"],
        rows=rows,
        speed=0.0,
    )
    return contract.encode_record(start), contract.record_headers(run_id, START)


def row_of(run_id, number, payload):
    return payload, contract.row_headers(run_id, number)


def end_of(run_id, payloads, **other):
    fields = {
        "run_id": run_id,
        "rows_sent": len(payloads),
        "rejects": {},
        "disordered": 0,
        "crc32": contract.crc32(payloads),
    }
    return contract.encode_record(EndRecord(**{**fields, **other})), contract.record_headers(run_id, END)


def run_of(run_id, payloads):
    """All messages of a whole run."""
    rows = [row_of(run_id, number, payload) for number, payload in enumerate(payloads)]
    return [start_of(run_id, len(payloads)), *rows, end_of(run_id, payloads)]


def send(there, messages):
    with Sender(there) as sender:
        sender.send(messages)
        sender.flush()


PAYLOADS = [quote(i) for i in range(200)]


@pytest.fixture
def report(there, tmp_path, capsys):
    """Run the backtest on the topic: (exit code, output or None, last line of stderr but the verified one)."""

    def report(*words):
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        flags = [
            "--kafka-bootstrap-servers",
            there.servers,
            "--kafka-topic",
            there.name,
            "--timeout",
            "1",
            "--out",
            str(out),
        ]
        code = backtest.main([*flags, "--order-size", "1000", *words])
        path = out / "output.json"
        *_, before, last = ["", *(line for line in capsys.readouterr().err.splitlines() if line)]
        if code == 0:
            assert re.fullmatch(r"verified \d+/\d+ rows, .*", last)
            last = before
        return code, json.loads(path.read_text()) if path.exists() else None, last

    return report


def test_a_whole_run_among_foreign_messages_and_duplicates(there, report):
    run = run_of("mine", PAYLOADS)
    foreign = [
        (b"hello", []),
        (b"\xff", [("run", b"\xff")]),
        (b"{}", [("run", b"other"), ("row", b"0")]),
        (b"", [("x", b"")]),
    ]
    send(there, [*foreign, *run[:50], *foreign, *run[40:100], run[0], *run[100:]])
    code, output, _ = report()
    assert code == 0
    assert output["run"]["counts"] == {"rows": 200, "duplicate": 11, "missing": 0, "reordered": 0, "foreign": 4}
    assert output["data"]["rows"] == 200
    assert output["run"]["whole"]


def test_null_payloads_and_headers_do_not_end_the_read(there, report):
    """A mistake of public attempts: malformed JSON crashes or silently ends the read."""
    bad = [b"{", b"", b"\xff\xfe", b"[]", b'{"ts_event":1}', b"NaN", quote(6, bid_px_00=float("nan")), b"{}" * 5_000]
    payloads = [*PAYLOADS[:50], *bad, *PAYLOADS[50:]]
    send(there, run_of("mine", payloads))
    code, output, _ = report()
    assert code == 0
    assert output["data"]["rows"] == 200
    assert output["run"]["counts"]["rows"] == 208
    assert output["run"]["messages_set_aside"] == {"undecodable": {"count": 8, "first_line": 50}}
    assert output["run"]["whole"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda run: run[:80] + run[81:], "1 rows missing before row 200"),
        (lambda run: [*run[:80], run[81], run[80], *run[82:]], "1 rows out of order"),
        (lambda run: [*run[:80], row_of("mine", 79, quote(5)), *run[81:]], "CRC-32 is "),
        (lambda run: run[:-1], "no end record after 200 of 200 rows"),
        (lambda run: [*run[:-1], (b"{", run[-1][1])], "a EndRecord cannot be decoded"),
        (lambda run: [*run[:80], end_of("mine", PAYLOADS[:79], aborted="Ctrl-C")], "aborted by the producer: Ctrl-C"),
    ],
    ids=["gap", "reordering", "checksum", "no end", "damaged end", "aborted"],
)
def test_a_run_that_is_not_whole_is_reported_as_such_and_only_once(there, report, change, fault):
    send(there, change(run_of("mine", PAYLOADS)))
    code, output, last = report()
    assert (code, output) == (1, None)
    assert last.startswith("error: run mine is not whole: ")
    assert fault in last
    code, output, _ = report("--run-id", "mine", "--allow-partial")
    assert code == 0
    assert any(found.startswith(fault) for found in output["run"]["faults"])
    send(there, run_of("next", PAYLOADS))
    code, output, _ = report()
    assert (code, output["run"]["run_id"]) == (0, "next")


def test_rejects_of_a_run_are_its_producers(there, tmp_path, capsys):
    send(there, run_of("mine", PAYLOADS))
    words = ["--kafka-bootstrap-servers", there.servers, "--kafka-topic", there.name, "--out", str(tmp_path / "out")]
    assert backtest.main([*words, "--rejects", str(tmp_path / "kept.csv")]) == 0
    assert f"{tmp_path / 'kept.csv'} is not written" in capsys.readouterr().err
    assert not (tmp_path / "kept.csv").exists()


def test_end_of_stream_is_not_guessed_from_silence(there, report):
    """A mistake of public attempts. Silence is a fault that is named, never the end."""
    send(there, run_of("mine", PAYLOADS)[:-1])
    assert report()[0] == 1


def test_a_rerun_reads_neither_the_old_run_nor_nothing(there, report):
    """A mistake of public attempts: a rerun reads the old run's messages, or none."""
    send(there, run_of("one", PAYLOADS))
    assert report()[1]["run"]["run_id"] == "one"
    code, output, last = report()
    assert (code, output) == (1, None)
    assert last == (
        f"error: no run to report came on topic {there.name} within 1 s: start `python kafka_producer.py`, "
        "or use --replay to take the newest complete run again"
    )
    send(there, [*run_of("two", PAYLOADS), *run_of("three", PAYLOADS), *run_of("open", PAYLOADS)[:-1]])
    code, output, last = report()
    assert output["run"]["run_id"] == "two"
    assert last == "2 more run(s) wait on the topic: start backtest.py again for the next"
    assert report("--replay")[1]["run"]["run_id"] == "three"
    assert report("--run-id", "one")[1]["run"]["run_id"] == "one"
    assert "run open is not whole" in report()[2]  # three was reported by --replay
    assert report("--kafka-group", "another")[1]["run"]["run_id"] == "one"


def test_a_short_run_after_one_that_is_skipped_is_found_without_waiting(there):
    """Behind a skipped run the wanted start comes in the same poll as the end of the topic."""
    send(there, [*run_of("long", PAYLOADS * 45), *run_of("short", PAYLOADS)])
    with Reader(there, "test") as reader:
        assert reader.newest_whole().run_id == "short"
        assert reader.run("short", timeout_s=0).run_id == "short"


def test_interleaved_runs_are_each_whole(there, report):
    left, right = run_of("left", PAYLOADS), run_of("right", [quote(i, ask_sz_00=500) for i in range(200)])
    mixed = [message for pair in zip(left, right, strict=True) for message in pair]
    send(there, mixed)
    outputs = [report()[1] for _ in range(2)]
    assert [output["run"]["run_id"] for output in outputs] == ["left", "right"]
    assert all(output["run"]["whole"] for output in outputs)
    assert outputs[0]["run"]["counts"]["foreign"] in (200, 201)
    assert report()[0] == 1


def test_a_damaged_start_record_is_no_run_and_holds_up_no_offset(there, report):
    send(there, [(b"{", contract.record_headers("bad", START)), *run_of("good", PAYLOADS)])
    assert report()[1]["run"]["run_id"] == "good"
    with Reader(there, "backtest") as reader:
        assert reader._committed >= 202


def test_runs_chosen_by_id_do_not_fill_the_commit_while_an_older_one_waits(there):
    send(there, [message for i in range(300) for message in run_of(f"run-with-a-long-name-{i:03}", [])])
    for i in (*range(1, 250, 50), 299):
        with Reader(there, "group") as reader:
            reader._reported |= {f"run-with-a-long-name-{k:03}" for k in range(1, i)}
            reader.run(f"run-with-a-long-name-{i:03}", 5)
            reader.commit_reported(f"run-with-a-long-name-{i:03}")
    with (
        Reader(there, "group") as reader,
        pytest.raises(StreamError, match=r"no run to report came on topic .* within 0\.1 s"),
    ):
        reader.next_unreported(0.1)


def test_an_empty_topic_and_an_absent_one_are_one_hint(kafka, topic, report):
    code, _, last = report("--kafka-topic", f"{topic}-absent")
    assert code == 1
    assert last.startswith(
        f"error: no run to report came on topic {topic}-absent within 1 s: start `python kafka_producer.py`"
    )
    code, _, last = report("--replay")
    assert (code, last) == (1, f"error: topic {topic} holds no complete run: start `python kafka_producer.py`")
    code, _, last = report("--run-id", "x")
    assert (code, last.startswith(f"error: no run x came on topic {topic} within 1 s")) == (1, True)


def test_a_topic_made_anew_is_read_from_its_beginning(kafka, there, report):
    send(there, run_of("old", PAYLOADS))
    assert report()[0] == 0
    done = kafka.tool("topics", "--delete", "--topic", there.name)
    assert done.returncode == 0, done.stderr
    kafka.create_topic(there.name)
    send(there, run_of("new", PAYLOADS[:100]))
    assert report()[1]["run"]["run_id"] == "new"


def test_only_bounded_many_messages_are_on_their_way(there):
    payload = b"x" * 200
    with Sender(there) as sender:
        for i in range(0, 30_000, 250):
            sender.send(row_of("many", number, payload) for number in range(i, i + 250))
            sender.make_room()
            assert len(sender._in_flight) <= stream.MOST_IN_FLIGHT
        sender.flush()
        assert sender._in_flight == []


def test_a_message_larger_than_kafka_takes_fails_the_run(there):
    with Sender(there) as sender, pytest.raises(StreamError, match=r"a message was not acknowledged .*; send it again"):
        sender.send([(b"x" * 2_000_000, [])])


def test_reader_and_audit_agree_with_what_was_sent(there):
    send(there, run_of("mine", PAYLOADS))
    with Reader(there, "group") as reader:
        audit, payloads = RunAudit(reader.next_unreported(5)), []
        while not audit.ended:
            payloads += audit.accept(reader.poll())
    assert payloads == PAYLOADS
    assert audit.faults() == []
