"""Random kills -9 of producer, backtest and broker over many runs; every message on the topic is then counted by itself.

    python -m tests.integration.chaos [--rows 1000000] [--producer-kills 200] [--backtest-kills 50] [--broker-kills 50]
                                      [--minutes 60] [--mode kraft|zookeeper] [--seed 1] [--folder FOLDER]

A round has two topics. On one, producers are killed on the way, and a backtest must call the first of their runs not whole
(unless all of it was sent). On the other a run is left to finish while the broker is killed under it, and under backtests of
one group, which are killed too, until one is left to finish; the group must then have nothing more to report. A plain consumer
reads both topics: in every run row numbers must rise one by one from 0, byte for byte those of the file, and the run that was
left to finish must have them all. A kill counts if it found its victim alive. Exit code 0 if nothing was lost, doubled or
reordered and every report is that of the file; else 1. `make chaos` runs it.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from kafka import KafkaConsumer, TopicPartition

from broker.local import MODES, LocalBroker
from broker.processes import Interrupted, catch_signals
from sor import contract, feed
from sor.events import Checker
from tests.integration.terminals import GRID, PY, ROOT, Terminals, but_run

DAY = ROOT / "l1_day.csv"
PRODUCER_S = (0.6, 3.0)  # kills are drawn from between; who has finished by then is not counted
PACE = 3_000  # times real time: the day in about 8 s, so that brokers are killed under it
BACKTEST_S = (0.6, 6.0)
BROKER_S = (0.0, 5.0)
PATIENCE_S = 300.0
SILENT_MS = 5_000


@dataclass
class Tally:
    """What happened, over all rounds."""

    rows_of_file: int
    kills: Counter = field(default_factory=Counter)
    runs: int = 0
    rows: int = 0
    whole_rows: int = 0  # of runs that were left to finish
    lost: int = 0
    doubled: int = 0
    reordered: int = 0
    wrong: list[str] = field(default_factory=list)
    lines: Counter = field(default_factory=Counter)

    @property
    def faults(self) -> int:
        """Rows lost, doubled or reordered, and what was reported wrongly."""
        return self.lost + self.doubled + self.reordered + len(self.wrong)

    def note(self, line: str) -> None:
        """Say what is wrong, and count it."""
        self.wrong.append(line)
        print(line, file=sys.stderr)


class Round:
    """A topic of killed runs, a topic with one whole run, the count of what is on them."""

    def __init__(self, broker: LocalBroker, folder: Path, chance: random.Random, tally: Tally, expected: str) -> None:
        self.broker, self.folder, self.chance, self.tally, self.expected = broker, folder, chance, tally, expected
        name = uuid.uuid4().hex[:8]
        self.killed_runs = Terminals(broker, f"chaos-killed-{name}", folder)
        self.whole_run = Terminals(broker, f"chaos-whole-{name}", folder)
        self.run_id = f"whole-{name}"
        self.groups = 0
        self.gaps: set[bytes] = set()  # runs of which a row came too early

    def play(self, producers: int, backtests: int, brokers: int, payloads: list[bytes]) -> None:
        """Kill as often as said, finish, count."""
        try:
            self.kill_producers(producers)
            self.kill_around_a_run(backtests, brokers)
            for terminals in (self.killed_runs, self.whole_run):
                self.count(terminals.topic, payloads)
        finally:
            for terminals in (self.killed_runs, self.whole_run):
                terminals.end()
                self.broker.tool("topics", "--delete", "--if-exists", "--topic", terminals.topic)

    def kill_producers(self, kills: int) -> None:
        """Producers killed one after the other; the first run is called not whole, unless all of it was sent before the kill."""
        for _ in range(kills):
            while not self.killed(self.killed_runs.producer(DAY), "producer", self.chance.uniform(*PRODUCER_S)):
                pass
        if kills:
            done = self.killed_runs.producer(DAY, "--run-id", f"after-{self.run_id}")
            self.ended(done, "producer", (0,), f"acknowledged {self.tally.rows_of_file}/{self.tally.rows_of_file} rows")
            report = self.killed_runs.backtest("broken", "--timeout", "5", "--evaluate", "off")
            self.ended(report, "backtest of a killed run", (0, 1), "is not whole", "0 duplicate, 0 gap")

    def killed(self, process: subprocess.Popen, kind: str, after_s: float) -> bool:
        """Kill the process after a while; False if it had ended by then."""
        try:
            process.wait(after_s)
        except subprocess.TimeoutExpired:
            process.kill()
        if process.wait() != -signal.SIGKILL:
            return False
        process.communicate()
        self.tally.kills[kind] += 1
        return True

    def kill_around_a_run(self, backtests: int, brokers: int) -> None:
        """The run that is left to finish, with the kills around it in random order, and its last report."""
        producer = self.whole_run.producer(DAY, "--run-id", self.run_id, "--speed", str(PACE))
        victims = ["backtest"] * backtests + ["broker"] * brokers
        self.chance.shuffle(victims)
        for victim in victims:
            if victim == "broker":
                self.kill_broker()
            else:
                self.kill_backtest()
        self.ended(producer, "producer", (0,), f"acknowledged {self.tally.rows_of_file}/{self.tally.rows_of_file} rows")
        self.finished(self.report())

    def report(self) -> subprocess.Popen:
        """A backtest of the group that has not reported the run yet."""
        return self.whole_run.backtest("out", "--kafka-group", f"group-{self.groups}", "--timeout", "60")

    def kill_broker(self) -> None:
        """Kill it and bring it back on the same port and data, with a backtest at work, which is then left to finish."""
        report = self.report()
        self.begun(report)
        time.sleep(self.chance.uniform(*BROKER_S))
        self.broker.kill()
        self.tally.kills["broker"] += 1
        time.sleep(self.chance.uniform(0.0, 0.5))
        self.broker.start()
        self.finished(report)

    @staticmethod
    def begun(report: subprocess.Popen) -> None:
        """The backtest has had the broker's first answer, or has ended."""
        while (line := report.stderr.readline()) and " run" not in line:
            pass

    def kill_backtest(self) -> None:
        """Kill a backtest at work; what it leaves behind is a whole report, or none."""
        while True:
            report = self.report()
            if self.killed(report, "backtest", self.chance.uniform(*BACKTEST_S)):
                return self.look("a killed backtest")
            self.finished(report)

    def finished(self, report: subprocess.Popen) -> None:
        """The backtest has reported the run, or one that was killed had; the group has nothing more to report."""
        rows = self.tally.rows_of_file
        verified = f"verified {rows}/{rows} rows, 0 duplicate, 0 gap"
        self.ended(report, "backtest", (0, 1), verified, "no run to report")
        self.look("a report")
        again = self.whole_run.backtest("out", "--kafka-group", f"group-{self.groups}", "--timeout", "0.5")
        self.ended(again, "backtest, once more", (1,), "no run to report")
        self.groups += 1

    def look(self, where: str) -> None:
        """What stands in output.json, if anything yet, must be the file's report."""
        path = self.folder / "out" / "output.json"
        if path.exists() and but_run(json.loads(path.read_text())) != self.expected:
            self.tally.note(f"{self.run_id}: output.json after {where}")

    def ended(self, process: subprocess.Popen, kind: str, codes: tuple[int, ...], *words: str) -> None:
        """The process must end with one of these codes, and its last line or the one before hold some of these words."""
        _, err = process.communicate(timeout=PATIENCE_S)
        found = next((word for word in words for line in err.splitlines()[-2:] if word in line), "")
        if process.returncode not in codes or not found or "Traceback" in err:
            self.tally.note(f"{self.run_id}: {kind} ended with {process.returncode}: {err[-2000:]}")
        else:
            self.tally.lines[f"{kind}: {found}"] += 1

    def count(self, topic: str, payloads: list[bytes]) -> None:
        """Every message of a topic, read by a bare consumer, without the reader and the audit of the backtest."""
        partition = TopicPartition(topic, 0)
        consumer = KafkaConsumer(bootstrap_servers=self.broker.bootstrap, auto_offset_reset="earliest")
        next_row: dict[str, int] = {}
        try:
            consumer.assign([partition])
            end = consumer.end_offsets([partition])[partition]
            while consumer.position(partition) < end:
                for record in consumer.poll(timeout_ms=SILENT_MS, max_records=10_000).get(partition, []):
                    self.count_one(record, next_row, payloads)
        finally:
            consumer.close()
        self.tally.runs += len(next_row)
        self.tally.rows += sum(next_row.values())
        for run_id in {self.run_id, f"after-{self.run_id}"} & next_row.keys():
            self.tally.lost += len(payloads) - next_row[run_id]
            self.tally.whole_rows += next_row[run_id]

    def count_one(self, record: object, next_row: dict[str, int], payloads: list[bytes]) -> None:
        """A row must be the next of its run, and hold what the file holds there."""
        (_, run), (name, value) = record.headers
        expected = next_row.setdefault(run.decode(), 0)
        if name != contract.HEADER_ROW:
            return
        row = int(value)
        if row == expected:
            next_row[run.decode()] = row + 1
        elif row < expected:
            self.tally.doubled += 1
        else:
            if run not in self.gaps:
                self.gaps.add(run)
                where = f"offset {record.offset}, sent at {record.timestamp}"
                print(f"{run.decode()}: row {row} where {expected} was expected, {where}", file=sys.stderr)
            self.tally.reordered += 1
        if record.value != payloads[row]:
            self.tally.note(f"{run.decode()}: row {row} is not the file's")


def share(total: int, rounds: int, number: int) -> int:
    """What round `number` of `rounds` gets of a total dealt out evenly.

    Examples
    --------
    >>> [share(5, 3, number) for number in range(3)]
    [1, 2, 2]
    """
    return total * (number + 1) // rounds - total * number // rounds


def report_of_the_file(folder: Path) -> str:
    """output.json but for `run`, made without Kafka."""
    words = ["--csv", DAY, "--out", folder, *GRID]
    subprocess.run([PY, ROOT / "backtest.py", *words], cwd=ROOT, check=True, capture_output=True)
    return but_run(json.loads((folder / "output.json").read_text()))


def table(tally: Tally) -> str:
    """The fault table."""
    kills = [f"| {kind} killed -9 at work | {count} |" for kind, count in sorted(tally.kills.items())]
    lines = [f"| {words} | {count} |" for words, count in tally.lines.items()]
    rest = (
        f"| runs on the topics, killed ones too | {tally.runs} |",
        f"| rows on the topics | {tally.rows} |",
        f"| rows of the runs that were left to finish | {tally.whole_rows} |",
        f"| rows lost | {tally.lost} |",
        f"| rows doubled | {tally.doubled} |",
        f"| rows reordered | {tally.reordered} |",
        f"| wrong reports, lines or payloads | {len(tally.wrong)} |",
    )
    return "\n".join(["| what | times |", "| --- | ---: |", *kills, *lines, *rest])


def main(argv: list[str] | None = None) -> int:
    """Run the command line; see the top of the file."""
    parser = _parser()
    flags = parser.parse_args(argv)
    if not (
        flags.rows > 0 and min(flags.producer_kills, flags.backtest_kills, flags.broker_kills) >= 0 < flags.minutes
    ):
        parser.error("rows and minutes must be above 0, kills not below")
    catch_signals()
    try:
        return play(flags)
    except Interrupted as interrupted:
        return interrupted.exit_code


def play(flags: argparse.Namespace) -> int:
    """All rounds and the table; the exit code."""
    payloads = [payload for rows in feed.good_blocks(DAY, Checker(10**9)) for payload in contract.encode_rows(rows)]
    tally = Tally(rows_of_file=len(payloads))
    rounds = -(-flags.rows // (2 * len(payloads)))
    chance = random.Random(flags.seed)
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(dir=flags.folder) as name:
        folder = Path(name)
        expected = report_of_the_file(folder / "file")
        with LocalBroker(folder / "broker", mode=flags.mode, port=0) as broker:
            for number in range(rounds):
                totals = (flags.producer_kills, flags.backtest_kills, flags.broker_kills)
                (folder / str(number)).mkdir()
                one = Round(broker, folder / str(number), chance, tally, expected)
                one.play(*(share(total, rounds, number) for total in totals), payloads)
                minutes = (time.monotonic() - started_s) / 60
                kills = ", ".join(f"{kind} {count}" for kind, count in sorted(tally.kills.items()))
                print(
                    f"round {number + 1}/{rounds}, {minutes:.1f} min: {kills}; {tally.rows} rows, {tally.faults} faults",
                    file=sys.stderr,
                )
                if minutes > flags.minutes and number + 1 < rounds:
                    tally.note(f"ended after {minutes:.0f} minutes, {rounds - number - 1} rounds short")
                    break
    print(table(tally))
    return 1 if tally.faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.integration.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the runs that are left to finish, at least")
    parser.add_argument("--producer-kills", type=int, default=200)
    parser.add_argument("--backtest-kills", type=int, default=50)
    parser.add_argument("--broker-kills", type=int, default=50)
    parser.add_argument("--mode", choices=MODES, default="kraft")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=60, help="no new round is begun after so long")
    parser.add_argument("--folder", type=Path, help="what it writes there is removed again; default: the system's")
    return parser


if __name__ == "__main__":
    sys.exit(main())
