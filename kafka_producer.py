"""Send a day of market data to Kafka, one JSON message per row, paced by the true gaps between the rows.

    python kafka_producer.py                      l1_day.csv in about a minute
    python kafka_producer.py --speed 0            as fast as possible
    python kafka_producer.py --csv day.csv.gz --speed 1

A start record and an end record (rows sent, rows set aside, CRC-32) frame the run, so that `backtest.py` knows what is
whole. Every message is acknowledged by the broker, or the run fails.
"""

from __future__ import annotations

if __name__ == "__main__":  # a Ctrl-C while the modules load ends the program without a traceback
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence

import numpy as np

import config
import utils
from sor import cli, contract, feed, log, stream
from sor.contract import END, START, EndRecord, StartRecord
from sor.errors import FeedError
from sor.events import Checker, RowBlock
from sor.feed import FileIdentity, FileSummary

ABORT_FLUSH_S = 5.0
PACED_ROWS = 256  # rows between two looks at the clock when nothing has to wait


def main(argv: Sequence[str] | None = None) -> int:
    """Send one run; the exit code."""
    settings = config.settings("kafka_producer", argv, __doc__)
    with log.on_stderr("kafka_producer", settings.log_level, settings.log_json, settings.kafka_sasl_password):
        return cli.run(lambda: produce(settings))


def produce(settings: config.Settings) -> int:
    """Look at the file, say what it holds, send it, say what was sent."""
    identity = feed.identify(settings.csv_path)
    scan = Checker(_ns(settings.max_disorder_s), settings.strict)
    summary = feed.summarise(settings.csv_path, scan)
    log.say(_announcement(identity, summary, scan))
    if settings.show:
        print(_preview(settings.csv_path, summary, scan.max_disorder_ns))
    if settings.rejects:
        feed.write_rejects(settings.csv_path, scan.rejects, settings.rejects)
    topic = stream.topic_of(settings)
    stream.ensure_topic(topic, "WRITE")
    start = StartRecord(
        run_id=settings.run_id or new_run_id(),
        file=identity.name,
        sha256=identity.sha256,
        schema_version=contract.SCHEMA_VERSION,
        symbols=sorted(summary.symbols),
        rows=summary.rows,
        speed=settings.speed,
    )
    with stream.Sender(topic) as sender:
        timer = utils.Timer()
        end = _send_run(settings, start, sender)
    log.say(
        f"sent {end.rows_sent} rows as run {start.run_id} in {timer.seconds:.1f} s "
        f"({end.rows_sent / timer.seconds:,.0f} rows/s), {scan.rejects.total} set aside, CRC-32 {end.crc32:08x}"
    )
    log.say(f"acknowledged {end.rows_sent}/{start.rows} rows")
    return 0


def new_run_id() -> str:
    """An id no other run has; its beginning is the time, so that ids sort by age."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"


def _send_run(settings: config.Settings, start: StartRecord, sender: stream.Sender) -> EndRecord:
    """Start record, rows, end record; an aborted end record if anything stops the run on the way."""
    run = RunSender(start.run_id, sender)
    checker = Checker(_ns(settings.max_disorder_s))
    sender.send([(contract.encode_record(start), contract.record_headers(start.run_id, START))])
    try:
        sender.flush()  # a broker takes any batch for the first of a producer that it does not know yet
        with log.progress(start.rows, "row", "sending") as bar, utils.rare_collections():
            pace = Pace(settings.speed, settings.max_gap_s)
            for rows in feed.good_blocks(settings.csv_path, checker):
                for sent in run.send_block(rows, pace):
                    bar.update(sent)
                    bar.set_postfix_str(f"lag {pace.lag_s:.2f} s", refresh=False)
        if run.rows != start.rows:
            raise FeedError(
                f"{settings.csv_path}: held {start.rows} rows, now {run.rows}; it must not change while it is sent"
            )
        sender.flush()
        return run.finish(checker)
    except BaseException as failure:
        _abort(run, checker, failure)
        raise


def _abort(run: RunSender, checker: Checker, failure: BaseException) -> None:
    """Tell the consumers that this run ends here; the broker may be gone, and that is what failed already."""
    try:
        run.finish(checker, ABORT_FLUSH_S, aborted=str(failure) or type(failure).__name__)
    except stream.StreamError:
        log.warn("the end of the run could not be announced: consumers will find it without an end record")


class Pace:
    """Waits so that rows leave as far apart as their times say, divided by `speed`; no wait is longer than `max_gap_s`."""

    def __init__(
        self,
        speed: float,
        max_gap_s: float,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.speed, self.max_gap_s, self.sleep, self.clock = speed, max_gap_s, sleep, clock
        self.lag_s = 0.0
        self._previous_ns: int | None = None
        self._due_s = clock()

    def due_after_s(self, ts_ns: np.ndarray) -> np.ndarray:
        """Seconds from the previous block's last row until each row of this one is due."""
        if self.speed == 0:
            return np.zeros(len(ts_ns))
        previous = ts_ns[0] if self._previous_ns is None else self._previous_ns
        self._previous_ns = int(np.maximum(ts_ns.max(), previous))
        newest = np.maximum.accumulate(np.append(previous, ts_ns))
        return np.cumsum(np.minimum(np.diff(newest) / 1e9 / self.speed, self.max_gap_s))

    def groups(self, ts_ns: np.ndarray) -> Iterator[tuple[int, int]]:
        """(start, stop) of the rows that may go now, waiting before each group until it is due."""
        due = self._due_s + self.due_after_s(ts_ns)
        start = 0
        while start < len(due):
            self.lag_s = max(0.0, self.clock() - due[start]) if self.speed else 0.0
            if (wait_s := due[start] - self.clock()) > 0:
                self.sleep(wait_s)
            ready = int(np.searchsorted(due, self.clock(), side="right")) if self.speed else len(due)
            stop = min(max(start + 1, ready), start + PACED_ROWS)
            yield start, stop
            start = stop
        self._due_s = float(due[-1])


class RunSender:
    """Numbers, counts and sums the rows of one run while they are sent."""

    def __init__(self, run_id: str, sender: stream.Sender) -> None:
        self.run_id, self._sender = run_id, sender
        self.rows = 0
        self.crc32 = 0
        self._run_header = contract.row_headers(run_id, 0)[0]

    def send_block(self, rows: RowBlock, pace: Pace) -> Iterator[int]:
        """Send the rows of a block in order; yields how many went each time the clock was looked at."""
        payloads = contract.encode_rows(rows)
        for start, stop in pace.groups(rows.ts_ns):
            with cli.deferred_signals():
                self._send(payloads[start:stop])
            self._sender.make_room()
            yield stop - start

    def _send(self, payloads: list[bytes]) -> None:
        run, name = self._run_header, contract.HEADER_ROW
        numbered = enumerate(payloads, start=self.rows)
        self._sender.send((payload, [run, (name, b"%d" % number)]) for number, payload in numbered)
        self.rows += len(payloads)
        self.crc32 = contract.crc32(payloads, self.crc32)

    def finish(self, checker: Checker, timeout_s: float = stream.FLUSH_S, aborted: str = "") -> EndRecord:
        """Send the end record and wait until the broker has it."""
        end = EndRecord(
            run_id=self.run_id,
            rows_sent=self.rows,
            rejects=checker.rejects.summary(),
            disordered=checker.disordered,
            crc32=self.crc32,
            aborted=aborted,
        )
        self._sender.send([(contract.encode_record(end), contract.record_headers(self.run_id, END))])
        self._sender.flush(timeout_s)
        return end


def _announcement(identity: FileIdentity, summary: FileSummary, scan: Checker) -> str:
    """What is going to be sent, in a few lines."""
    span_s = (summary.last_ns - summary.first_ns) / 1e9
    lines = [
        f"{identity.name}: {summary.rows} rows, {summary.timestamps} timestamps, symbols {', '.join(summary.symbols)}, "
        f"{len(summary.venues)} venues ({', '.join(map(str, sorted(summary.venues)))})",
        f"from {utils.utc_text(summary.first_ns)} to {utils.utc_text(summary.last_ns)} ({span_s:,.0f} s)",
    ]
    if scan.rejects.total:
        kinds = ", ".join(f"{kind} {found['count']}" for kind, found in scan.rejects.summary().items())
        lines.append(f"{scan.rejects.total} rows set aside ({kinds}); the first is {scan.rejects.earliest()}")
    if scan.disordered:
        lines.append(f"{scan.disordered} rows are a little out of order, kept in file order")
    return "\n".join(lines)


def _preview(path: str, summary: FileSummary, max_disorder_ns: int) -> str:
    """The first five rows as the messages they become, and the number of distinct timestamps."""
    rows = next(feed.good_blocks(path, Checker(max_disorder_ns)))
    payloads = contract.encode_rows(rows.select(np.arange(len(rows)) < 5))
    return "\n".join([*(payload.decode() for payload in payloads), f"{summary.timestamps} distinct timestamps"])


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


if __name__ == "__main__":
    sys.exit(main())
