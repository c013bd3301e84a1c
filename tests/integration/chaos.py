"""Kill the producer, the backtest and the broker at random moments, over a million rows, and count what was lost.

    python -m tests.integration.chaos                       (make chaos) 200, 50 and 50 kills; half an hour
    python -m tests.integration.chaos --rows 120000 --producer-kills 6 --backtest-kills 4 --broker-kills 4 --mode zookeeper

Rounds of l1_day.csv, each on a topic of its own. First producers are killed while backtests report what they left, and are
killed too; then a whole run is sent while the broker and the backtest are killed, until it is reported. A kill counts only
if the process was at work. In the end of a round the whole topic is read again by a plain consumer: every row of every run
must be the next one of the file, byte for byte, and every run must have been reported exactly once. The evaluation is on in
the first round only, for it costs time and meets no fault of its own. Exit code 0 if nothing was lost, doubled or reordered.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition

from broker.local import MODES, LocalBroker
from sor import contract, feed, stream
from sor.events import Checker
from tests.integration.terminals import ROOT, Terminals, but_run, wait_for

CSV = ROOT / "l1_day.csv"
PACED_S = 15.0  # a whole run, so that the broker can be killed and come back several times
VERIFIED = re.compile(r"verified (\d+)/(\d+) rows, (\d+) duplicate, (?:0 gap|(\d+) missing)(, \d+ out of order)?")


@dataclass
class Counts:
    """What has happened so far."""

    kills: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)  # of a fault: what the user saw
    whole_runs: int = 0
    broken_runs: int = 0
    rows_verified: int = 0  # of whole runs, by the backtest
    rows_checked: int = 0  # on the topics, by the plain consumer
    lost: Counter[str] = field(default_factory=Counter)
    doubled: Counter[str] = field(default_factory=Counter)
    reordered: int = 0
    rewritten: int = 0  # reports that were made again because the first was not committed
    different: int = 0  # outputs that are not the bytes they must be
    problems: list[str] = field(default_factory=list)


class Round:
    """One topic: killed runs, then a whole one."""

    def __init__(
        self, broker: LocalBroker, folder: Path, number: int, plan: Counter[str], draw: random.Random, total: Counts
    ):
        self.broker, self.number, self.plan, self.draw, self.total = broker, number, plan, draw, total
        folder.mkdir()
        self.folder = folder
        self.terminals = Terminals(broker, f"chaos-{number}", folder)
        self.words = ["--evaluate", "on" if number == 0 else "off"]
        self.reported: Counter[str] = Counter()
        self.whole_runs = 0
        self.missing: defaultdict[str, set[int]] = defaultdict(set)
        self.seen: set[str] = set()  # runs whose report was there when its backtest was killed

    # --- what is done to the programs

    def run(self) -> None:
        """Both halves, then the check."""
        try:
            stream.ensure_topic(stream.Topic(self.broker.bootstrap, self.terminals.topic))
            before = self.plan["backtest"] // 2
            self.killed_producers(backtest_kills=before)
            self.whole_run(backtest_kills=self.plan["backtest"] - before)
            self.check()
        finally:
            self.terminals.end()
            self._delete_topic()

    def killed_producers(self, backtest_kills: int) -> None:
        """Producers killed one after the other; beside them, backtests report what is left of their runs."""
        over = threading.Event()
        reports = threading.Thread(target=self._report_until, args=(over, backtest_kills))
        reports.start()
        for _ in range(self.plan["producer"]):
            while not self._kill_a_producer():
                pass
        over.set()
        reports.join()

    def _kill_a_producer(self) -> bool:
        """At any time of its life, three times of four once it sends."""
        producer = self.terminals.producer(CSV)
        if self.draw.random() < 0.75:
            wait_for(producer, "sending")
            time.sleep(self.draw.uniform(0.0, 2.0))
        else:
            time.sleep(self.draw.uniform(0.2, 2.0))
        return self._kill("producer", producer)

    def _kill(self, name: str, process) -> bool:
        """SIGKILL, if the process is still at work."""
        alive = process.poll() is None
        if alive:
            process.kill()
            self.total.kills[name] += 1
        process.communicate()
        return alive

    def _report_until(self, over: threading.Event, kills: int) -> None:
        """Report run after run until nothing waits; `kills` of the backtests are killed."""
        draw = random.Random(self.draw.random())
        while True:
            was_over = over.is_set()
            report = self.terminals.backtest("out", *self.words, "--timeout", "0.7")
            if kills and self._killed_early(report, draw.uniform(0.3, 4.0)):
                kills -= 1
            elif self._read_verdict(report) == "none" and was_over:
                break
        while kills:  # nothing was left to report: a waiting one
            report = self.terminals.backtest("out", *self.words, "--timeout", "5")
            kills -= self._killed_early(report, draw.uniform(0.3, 4.0))

    def _killed_early(self, report, after_s: float) -> bool:
        deadline_s = time.monotonic() + after_s
        while time.monotonic() < deadline_s and report.poll() is None:
            time.sleep(0.02)
        if report.poll() is not None:
            self._read_verdict(report)
            return False
        self.total.kills["backtest"] += 1
        report.kill()
        _, err = report.communicate()
        self.seen |= set(re.findall(r"run (\S+) is not whole: ", err))
        if (self.folder / "out" / "output.json").exists():
            self.seen.add(self.terminals.output("out")["run"]["run_id"])
        return True

    def whole_run(self, backtest_kills: int) -> None:
        """A run sent and reported while the broker is killed and restarted; sent again if it did not get through."""
        kills = {"broker": self.plan["broker"], "backtest": backtest_kills}
        while True:
            self.whole_runs += 1
            run_id = f"whole-{self.number}-{self.whole_runs}"
            pace = ["--speed", "1", "--max-gap", str(PACED_S / 17_819)]
            producer = self.terminals.producer(CSV, *pace, "--run-id", run_id)
            over = threading.Event()
            killer = threading.Thread(target=self._kill_brokers, args=(over, kills))
            killer.start()
            verdict = self._report_the_run(run_id, kills)
            over.set()
            killer.join()
            _, said = producer.communicate(timeout=200)
            if producer.returncode:
                self.total.messages["producer, broker killed"] = said.splitlines()[-1]
            if verdict == "whole" and not kills["broker"]:
                break
        while kills["backtest"]:
            report = self.terminals.backtest("out", *self.words, "--timeout", "5")
            kills["backtest"] -= self._killed_early(report, self.draw.uniform(0.3, 4.0))

    def _kill_brokers(self, over: threading.Event, kills: dict[str, int]) -> None:
        draw = random.Random(self.draw.random())
        while kills["broker"] and not over.wait(draw.uniform(0.0, 5.0)):
            self.broker.kill()
            self.total.kills["broker"] += 1
            kills["broker"] -= 1
            time.sleep(draw.uniform(0.0, 1.0))
            self.broker.start()

    def _report_the_run(self, run_id: str, kills: dict[str, int]) -> str:
        """Backtests until one gives a verdict on the run; some of them are killed on the way."""
        while True:
            report = self.terminals.backtest("out", *self.words, "--timeout", "60")
            if kills["backtest"] and self.draw.random() < 0.7:
                if self._killed_early(report, self.draw.uniform(0.5, 20.0)):
                    kills["backtest"] -= 1
                    if self._killed_too_late(run_id):
                        return "whole"
                    continue
                if self._last_verdict != "none":
                    return self._last_verdict
                continue
            if (verdict := self._read_verdict(report)) != "none":
                return verdict

    def _killed_too_late(self, run_id: str) -> bool:
        """Was the run reported and committed already? A report without a commit will be made again."""
        if run_id not in self.seen:
            return False
        with stream.Reader(stream.Topic(self.broker.bootstrap, self.terminals.topic), "backtest") as reader:
            try:
                self.total.rewritten += reader.next_unreported(0).run_id == run_id
                return False
            except stream.StreamError as error:
                if "no run to report" not in str(error):
                    raise
        self._take_output(len(PAYLOADS))
        return True

    # --- what the programs say

    def _read_verdict(self, report) -> str:
        """whole, broken or none: what a backtest that was left alone has said of a run."""
        _, err = report.communicate(timeout=400)
        self._last_verdict = self._verdict(report.returncode, err)
        return self._last_verdict

    def _verdict(self, code: int, err: str) -> str:
        lines = [line for line in err.splitlines() if line.strip()]
        if "Traceback" in err or code not in (0, 1):
            self.total.problems.append(f"round {self.number}: exit {code}: {lines[-1:]}")
        for line in lines:
            if "takes over" in line:
                self.total.messages["backtest"] = line
        if code == 0:
            return self._whole(lines)
        if broken := re.search(r"run (\S+) is not whole: ", err):
            self._broken(broken[1], lines)
            return "broken"
        if "no run to report" not in lines[-1]:
            self.total.messages["backtest, broker killed"] = lines[-1]
        return "none"

    def _whole(self, lines: list[str]) -> str:
        got, announced, duplicate, missing, disorder = VERIFIED.fullmatch(lines[-1]).groups()
        self._take_output(int(got))
        self.total.messages["none"] = lines[-1]
        if got != announced or missing or disorder:
            self.total.problems.append(f"round {self.number}: {lines[-1]}")
        self.total.doubled["rows of reports"] += int(duplicate)
        if left := [path.name for path in (self.folder / "out").glob(".*.tmp")]:
            self.total.problems.append(f"round {self.number}: temporary files are left: {left}")
        return "whole"

    def _take_output(self, rows: int) -> None:
        output = self.terminals.output("out")
        self.reported[output["run"]["run_id"]] += 1
        self.total.whole_runs += 1
        self.total.rows_verified += rows
        self.total.different += hashlib.sha256(but_run(output).encode()).digest() != EXPECTED[self.words[1]]

    def _broken(self, run_id: str, lines: list[str]) -> None:
        self.reported[run_id] += 1
        self.total.broken_runs += 1
        self.total.messages["producer"] = f"{lines[-2]} / {lines[-1]}"

    # --- what is on the topic

    def check(self) -> None:
        """Read the topic from its beginning with a plain consumer; each row must be the next of its run and of the file."""
        following: dict[str, int] = {}
        ended: dict[str, bool] = {}
        for headers, payload in self._messages():
            run_id = headers["run"].decode()
            if "row" in headers:
                self._check_row(following, run_id, int(headers["row"]), payload)
            elif headers["record"] == contract.START:
                following[run_id] = 0
            else:
                ended[run_id] = not json.loads(payload)["aborted"]
        for run_id, rows in following.items():
            whole = ended.get(run_id, False)
            self.total.lost["rows"] += len(PAYLOADS) - rows if whole else 0
            self.total.lost["reports"] += self.reported[run_id] == 0 and run_id not in self.seen
            self.total.doubled["reports"] += self.reported[run_id] > 1
        unknown = set(self.reported) - set(following)
        self.total.problems += [f"round {self.number}: reported, but not on the topic: {run_id}" for run_id in unknown]

    def _check_row(self, following: dict[str, int], run_id: str, row: int, payload: bytes) -> None:
        due = following[run_id]
        if payload != PAYLOADS[row]:
            self.total.different += 1
        if row == due:
            self.total.rows_checked += 1
        elif row > due:
            self.total.lost["rows"] += row - due
            self.missing[run_id] |= set(range(due, row))
        elif row in self.missing[run_id]:
            self.missing[run_id].remove(row)
            self.total.lost["rows"] -= 1
            self.total.reordered += 1
        else:
            self.total.doubled["rows on the topic"] += 1
        following[run_id] = max(due, row + 1)

    def _messages(self):
        partition = TopicPartition(self.terminals.topic, 0)
        consumer = KafkaConsumer(
            bootstrap_servers=self.broker.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
        )
        try:
            consumer.assign([partition])
            end = consumer.end_offsets([partition])[partition]
            consumer.seek_to_beginning(partition)
            while consumer.position(partition) < end:
                for record in consumer.poll(timeout_ms=500, max_records=4_000).get(partition, []):
                    yield dict(record.headers), record.value
        finally:
            consumer.close()

    def _delete_topic(self) -> None:
        admin = KafkaAdminClient(bootstrap_servers=self.broker.bootstrap)
        try:
            admin.delete_topics([self.terminals.topic])
        finally:
            admin.close()


PAYLOADS: list[bytes] = []  # the messages that l1_day.csv is
EXPECTED: dict[str, bytes] = {}  # SHA-256 of output.json but for `run`, with the evaluation on and off


def prepare(folder: Path, say: Callable[[str], None]) -> None:
    """What must come out: the file's messages, and its results without Kafka."""
    for rows in feed.good_blocks(str(CSV), Checker(10**9)):
        PAYLOADS.extend(contract.encode_rows(rows))
    for evaluate in ("on", "off"):
        say(f"the results without Kafka, evaluation {evaluate}")
        alone = Terminals(_NoBroker, "none", folder)
        process = alone.backtest(evaluate, "--csv", CSV, "--evaluate", evaluate)
        _, err = process.communicate(timeout=900)
        if process.returncode:
            raise SystemExit(err)
        EXPECTED[evaluate] = hashlib.sha256(but_run(alone.output(evaluate)).encode()).digest()


class _NoBroker:
    bootstrap = "127.0.0.1:9"


def shares(total: int, rounds: int) -> list[int]:
    """`total` over the rounds, as evenly as it goes."""
    return [total * (i + 1) // rounds - total * i // rounds for i in range(rounds)]


def table(total: Counts) -> str:
    """The faults: how often, and what they cost."""
    lines = ["| fault | times | rows lost | rows doubled | message shown |", "| --- | --- | --- | --- | --- |"]
    for name, label in (("producer", "producer"), ("backtest", "backtest"), ("broker", "broker, and restarted")):
        shown = total.messages.get(name) or total.messages.get("none", "")
        lost, doubled = total.lost["rows"], sum(total.doubled.values())
        lines.append(f"| kill -9 of the {label} | {total.kills[name]} | {lost} | {doubled} | {shown} |")
    lines.append("")
    doubled = total.doubled["rows on the topic"] + total.doubled["rows of reports"]
    lines.append(
        f"{total.whole_runs} whole runs of {total.rows_verified} rows and {total.broken_runs} broken ones were reported, "
        f"{total.rewritten} twice because the first report was killed before its commit\n"
        f"{total.rows_checked} rows on the topics compared with the file's; rows lost {total.lost['rows']}, doubled {doubled}, "
        f"reordered {total.reordered}; reports lost {total.lost['reports']}, doubled {total.doubled['reports']}; "
        f"rows and outputs with other bytes {total.different}"
    )
    lines += [f"also seen ({name}): {total.messages[name]}" for name in sorted(total.messages) if ", " in name]
    lines += [f"PROBLEM {problem}" for problem in total.problems]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rounds; 0 if everything came through."""
    flags = _parser().parse_args(argv)
    say = lambda text: print(f"chaos: {text}", file=sys.stderr, flush=True)  # noqa: E731
    draw, total, started_s = random.Random(flags.seed), Counts(), time.monotonic()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder, say)
        rounds = -(-flags.rows // len(PAYLOADS))
        plans = zip(
            *(shares(n, rounds) for n in (flags.producer_kills, flags.backtest_kills, flags.broker_kills)), strict=True
        )
        with LocalBroker(folder / "broker", mode=flags.mode, port=0, host="127.0.0.1") as broker:
            for i, kills in enumerate(plans):
                plan = Counter(dict(zip(("producer", "backtest", "broker"), kills, strict=True)))
                Round(broker, folder / f"round{i}", i, plan, draw, total).run()
                spent_s = time.monotonic() - started_s
                say(
                    f"round {i + 1} of {rounds}, {spent_s:.0f} s: {dict(total.kills)}, {total.rows_verified} rows verified"
                )
                if spent_s > flags.minutes * 60:
                    total.problems.append(f"ended after {flags.minutes} minutes, {rounds - i - 1} rounds short")
                    break
    print(f"seed {flags.seed}, {flags.mode}, {time.monotonic() - started_s:.0f} s\n{table(total)}")
    bad = sum(total.lost.values()) + sum(total.doubled.values()) + total.reordered + total.different
    return 1 if bad or total.problems else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.integration.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1_000_000, help="of whole runs, at least")
    parser.add_argument("--producer-kills", type=int, default=200)
    parser.add_argument("--backtest-kills", type=int, default=50)
    parser.add_argument("--broker-kills", type=int, default=50)
    parser.add_argument("--mode", choices=MODES, default="kraft")
    parser.add_argument("--minutes", type=float, default=90, help="no new round is begun after so long")
    return parser


if __name__ == "__main__":
    sys.exit(main())
