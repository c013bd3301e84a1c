"""What `make run` runs after the set-up: a broker, then producer and backtest against it, then the broker's stop.

    python -m broker.pipeline [--speed 0] [--mode kraft|zookeeper] [--secure | --insecure]

KAFKA_BOOTSTRAP_SERVERS set: that broker is used and none is started. No Java, Maven or jars to be had: the backtest
reads the CSV without Kafka, under a banner. The last line of stdout names the files that were written; all other lines
of this program go to stderr. Exit codes: 0 done; 130 or 143 interrupted; 2 the port is taken; else that of the program
that failed.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from broker.errors import NotInstalledError
from broker.jars import ROOT
from broker.local import FOLDER, MODES, LocalBroker
from broker.processes import Interrupted, catch_signals, signals_deferred
from sor.errors import SorError

OUTPUTS = ("output.json", "grid_results.json", "results.png", "results.pdf")
_BANNER = """
==================================================================================================
  WITHOUT KAFKA: {reason}
  The backtest reads the CSV file instead (run.transport in output.json is "csv").
==================================================================================================
"""
_GRACE_S = 15.0
_POLL_S = 0.05


def main(argv: Sequence[str] | None = None, scripts: Path = ROOT, folder: Path = FOLDER) -> int:
    """Run the pipeline; see the top of the file. `scripts` holds kafka_producer.py and backtest.py."""
    flags = _parser().parse_args(argv)
    catch_signals()
    try:
        broker = LocalBroker(folder, mode=flags.mode, secure=flags.secure, insecure=flags.insecure, say=_say)
        code = run(scripts, broker, flags.speed)
    except Interrupted as interrupted:
        _say(f"ended by {signal.Signals(interrupted.number).name}")
        return interrupted.exit_code
    except SorError as error:
        _say(str(error))
        return error.exit_code
    if code == 0:
        print(*(os.path.join(os.environ.get("SOR_OUT_PATH", ""), name) for name in OUTPUTS), flush=True)
    return code


def run(scripts: Path, broker: LocalBroker, speed: str) -> int:
    """Producer and backtest over the broker of the environment, over one of our own, or the backtest on the CSV."""
    servers = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if servers:
        _say(f"using the Kafka on {servers}")
        return run_over_kafka(scripts, {}, speed)
    try:
        broker.start()
    except NotInstalledError as error:
        print(_BANNER.format(reason=error), file=sys.stderr)
        csv_path = os.environ.get("SOR_CSV_PATH") or "l1_day.csv"
        return run_programs(scripts, [_python("backtest.py", "--csv", csv_path)], os.environ)
    try:
        _say(f"Kafka listens on {broker.bootstrap}")
        return run_over_kafka(scripts, broker.open_for_clients(), speed)
    finally:
        for line in broker.stop():
            _say(line)


def run_over_kafka(scripts: Path, environment: Mapping[str, str], speed: str) -> int:
    """One run of both programs, under a run id of its own: older runs on the topic do not matter.

    `environment` is added to ours: where the broker is, and who we are there.
    """
    run_id = uuid.uuid4().hex
    backtest = _python("backtest.py", "--run-id", run_id)
    producer = _python("kafka_producer.py", "--speed", speed, "--run-id", run_id)
    return run_programs(scripts, [backtest, producer], {**os.environ, **environment})


def run_programs(folder: Path, commands: Sequence[Sequence[str]], environment: Mapping[str, str]) -> int:
    """Run all at once; 0 when all succeeded, else the exit code of one that failed (the others are ended then)."""
    with _programs(folder, commands, environment) as programs:
        while True:
            codes = [program.poll() for program in programs]
            failed = next((code for code in codes if code), 0)
            if failed or None not in codes:
                return failed if failed >= 0 else 128 - failed
            time.sleep(_POLL_S)


@contextlib.contextmanager
def _programs(
    folder: Path, commands: Sequence[Sequence[str]], environment: Mapping[str, str]
) -> Iterator[list["subprocess.Popen[bytes]"]]:
    """The programs, started; what still runs at the end of the block is sent the signal that ended it, or SIGTERM.

    Each is the head of a session of its own: a Ctrl-C in the terminal reaches it once, from here.
    """
    programs: list[subprocess.Popen[bytes]] = []
    number = signal.SIGTERM
    try:
        for command in commands:
            with signals_deferred():
                programs.append(subprocess.Popen(command, cwd=folder, env=dict(environment), start_new_session=True))
        yield programs
    except Interrupted as interrupted:
        number = interrupted.number
        raise
    finally:
        _end(programs, number)


def _end(programs: Sequence["subprocess.Popen[bytes]"], number: int) -> None:
    running = [program for program in programs if program.poll() is None]
    for program in running:
        program.send_signal(number)
    deadline = time.monotonic() + _GRACE_S
    for program in running:
        try:
            program.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _say(f"{Path(program.args[1]).name} did not end within {_GRACE_S:.0f} s: killed")
            program.kill()
            program.wait()


def _python(name: str, *words: str) -> list[str]:
    return [sys.executable, name, *words]


def _say(line: str) -> None:
    print(f"run: {line}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m broker.pipeline", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", choices=MODES, default="kraft")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--secure", action="store_true", help="of our own broker: TLS, users, access control lists")
    form.add_argument("--insecure", action="store_true", help="let it listen beyond this machine without any of them")
    parser.add_argument(
        "--speed",
        default=os.environ.get("SPEED") or os.environ.get("SOR_SPEED") or "0",
        help="of kafka_producer.py; default SPEED, or 0",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
