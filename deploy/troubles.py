"""Make every trouble of the table in docs/deploy-ec2.md happen, and compare the message.

    python3 deploy/troubles.py bare        on a new machine, before anything is installed
    python3 deploy/troubles.py ready       in the project's folder, after the set-up and with no broker running
    python3 deploy/troubles.py group       in the project's folder, where a memory group can be made (root)

Each prints what was done and what was said; exit code 1 if a message is not the one of the table. Debian or Ubuntu, with
password-less sudo; `bare` installs python3-pip. Needs nothing but Python 3.9 and bash.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

if __package__:
    from deploy.walk_through import clean
else:
    from walk_through import clean

PYTHON = ".venv/bin/python"
STAGES = ("bare", "ready", "group")


@dataclass(frozen=True)
class Trouble:
    """One row of the table.

    Attributes
    ----------
    shows
        What the output must contain; the row's first column is the same text.
    stage
        Where it can be made to happen: `bare`, `ready`, `group` (see the top of the file) or `anywhere`, which is
        `ready` without sudo or a free port 9092.
    script
        Of bash, run from the stage's folder; its last command is the one that fails.
    code
        Exit code that it must have.
    """

    shows: str
    stage: str
    script: str
    code: int


# Everything of /usr/bin but what stands behind the words; sudo too is left out, so that nothing gets installed.
_WITHOUT = """
bin=$(mktemp -d); ln -s /usr/bin/* "$bin"; for name in sudo apt-get dnf yum brew {names}; do rm -f "$bin/$name"; done
export PATH=$bin; unset JAVA_HOME KAFKA_HOME
"""

TROUBLES = (
    Trouble("make: command not found", "bare", "make run", 127),
    Trouble(
        "error: externally-managed-environment",
        "bare",
        "sudo apt-get -qq update\n"
        "sudo DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends python3-pip >/dev/null 2>&1\n"
        "pip3 install pandas numpy kafka-python",
        1,
    ),
    Trouble(
        "because ensurepip is not",
        "bare",
        'python3 -m venv "$(mktemp -d)/venv"',
        1,
    ),
    Trouble(
        "Java not found, and could not be installed",
        "anywhere",
        f"python=$(readlink -f {PYTHON})\n{_WITHOUT.format(names='java')}\n"
        '"$python" -m broker.local --dir "$(mktemp -d)" --port 0 start',
        1,
    ),
    Trouble(
        "Maven could not fetch Kafka's jars",
        "ready",
        'here=$PWD; copy=$(mktemp -d); cp -r broker sor "$copy"; mkdir "$copy/.m2"\n'
        'echo "<settings><offline>true</offline></settings>" >"$copy/.m2/settings.xml"\n'
        'export MAVEN_OPTS=-Duser.home=$copy\ncd "$copy"\n"$here/.venv/bin/python" -m broker.local jars',
        1,
    ),
    Trouble(
        "Could not reserve enough space for",
        "anywhere",
        "ulimit -v 16000000\n"
        f'KAFKA_HEAP_OPTS="-Xmx64G -Xms64G" {PYTHON} -m broker.local --dir "$(mktemp -d)" --port 0 start',
        1,
    ),
    Trouble(
        "port 9092 is taken by",
        "ready",
        f'{PYTHON} -m http.server --bind 127.0.0.1 9092 >/dev/null 2>&1 & trap "kill $!" EXIT; sleep 2\n'
        f'{PYTHON} -m broker.local --dir "$(mktemp -d)" start',
        2,
    ),
    Trouble(
        "no Kafka broker answers at",
        "anywhere",
        f"{PYTHON} kafka_producer.py --kafka-bootstrap-servers 127.0.0.1:9 --speed 0",
        1,
    ),
    Trouble(
        "(KafkaConnectionError)",
        "ready",
        'folder=$(mktemp -d); trap "$PWD/.venv/bin/python -m broker.local --dir $folder stop >/dev/null" EXIT\n'
        f'KAFKA_ADVERTISE=127.9.9.9 {PYTHON} -m broker.local --dir "$folder" start\n'
        f"{PYTHON} kafka_producer.py --speed 0",
        1,
    ),
    Trouble(
        "no run to report came on topic",
        "ready",
        'folder=$(mktemp -d); trap "$PWD/.venv/bin/python -m broker.local --dir $folder stop >/dev/null" EXIT\n'
        f'{PYTHON} -m broker.local --dir "$folder" start\n'
        f'{PYTHON} backtest.py --timeout 5 --out "$folder"',
        1,
    ),
    Trouble(
        "Invalid cluster.id in",
        "ready",
        'folder=$(mktemp -d); trap "$PWD/.venv/bin/python -m broker.local --dir $folder stop >/dev/null" EXIT\n'
        f'{PYTHON} -m broker.local --dir "$folder" --mode zookeeper start\n'
        f'{PYTHON} -m broker.local --dir "$folder" stop\n'
        'rm -r "$folder/data-zookeeper/zookeeper"\n'
        f'{PYTHON} -m broker.local --dir "$folder" --mode zookeeper start',
        1,
    ),
    Trouble(
        "No space left on device",
        "ready",
        'folder=$(mktemp -d); sudo mount -t tmpfs -o size=100k,mode=777 tmpfs "$folder"; trap "sudo umount $folder" EXIT\n'
        f'{PYTHON} backtest.py --csv l1_day.csv --evaluate off --out "$folder"',
        1,
    ),
    Trouble(
        "Killed",
        "group",
        f'{PYTHON} -m benchmarks.memory_group --limit-mib 100 -- bash -c "{PYTHON} backtest.py --csv l1_day.csv; exit \\$?"',
        137,
    ),
)


def reproduce(trouble: Trouble, folder: Path) -> tuple[bool, str]:
    """Make it happen; whether it showed what the table says, and what it printed."""
    done = subprocess.run(
        ["bash", "-c", trouble.script],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=600,
    )
    output = done.stdout.decode(errors="replace")
    as_said = trouble.shows in output and done.returncode == trouble.code
    return as_said, f"{clean(output).strip()}\n[exit code {done.returncode}]"


def main(argv: Sequence[str]) -> int:
    """Run the command line; see the top of the file."""
    if len(argv) != 1 or argv[0] not in STAGES:
        print(__doc__, file=sys.stderr)
        return 2
    stages = {argv[0], "anywhere"} if argv[0] == "ready" else {argv[0]}
    failed = 0
    for trouble in (each for each in TROUBLES if each.stage in stages):
        as_said, text = reproduce(trouble, Path.cwd())
        failed += not as_said
        print(f"--- {trouble.shows}: {'as in the table' if as_said else 'NOT AS IN THE TABLE'}\n{text}\n", flush=True)
    print(f"{failed} of them not as in the table" if failed else "all as in the table")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
