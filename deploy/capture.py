"""Pictures of a real run: the machine, the processes, Kafka's console consumer, the JSON on stdout.

    .venv/bin/python -m deploy.capture --machine "t3.micro, Amazon Linux 2023" docs/captures

Starts Kafka with ZooKeeper (port 9092 and 2181 must be free), the producer at its usual pace and the backtest, takes what the
shown commands print while all four run, stops everything, and draws each output as a PNG of a terminal. What `--machine`
says stands under each picture. Shown differently from how it was printed are only: long lines, cut or wrapped; the build
name of the kernel and the command lines of processes, shortened; parts of the JSON, left out. An ellipsis marks each. Of `ps`
only the lines of the four are shown.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from broker.local import LocalBroker
from deploy.walk_through import clean_lines

COLUMNS = 116
FONT_PX, LINE_PX, MARGIN_PX = 15, 21, 22
BACKGROUND, BAR, TEXT, PROMPT, DIM = "#14181f", "#232a35", "#d8dee9", "#8fd17f", "#8a94a6"
_GROUP = Path("/sys/fs/cgroup/memory")
_LIMIT = "numfmt --to=iec-i --suffix=B <{}/memory.{}_in_bytes    # {}"
SYSTEM = (
    "uname -a",
    "grep PRETTY_NAME /etc/os-release",
    "nproc",
    "uptime",
    "free -m",
    _LIMIT.format(_GROUP, "limit", "of it, for this container"),
    "java -version",
    ".venv/bin/python --version",
)
PROCESSES = "ps -u $USER -o pid,rss,etime,args"
PEAK = _LIMIT.format(_GROUP, "max_usage", "peak, with page cache")
LISTENERS = "ss -Hltn"
CONSOLE = (
    ".venv/bin/python -m broker.local tool console-consumer --topic mock_l1_stream --from-beginning "
    "--max-messages 5 --property print.headers=true"
)
LAG = ".venv/bin/python -m broker.local tool consumer-groups --describe --group backtest"
PROGRAMS = ("QuorumPeerMain", "kafka.Kafka", "kafka_producer.py", "backtest.py")  # the four of a run
_PAUSE_S = 12.0  # until the producer has sent a good part of the day


def short_command(line: str) -> str:
    """A line of ps with the options of a JVM left out.

    Examples
    --------
    >>> short_command("  7 9 00:01 /usr/bin/java -Xmx256M -cp libs/* kafka.Kafka kraft.properties")
    '  7 9 00:01 java -Xmx256M … kafka.Kafka kraft.properties'
    """
    found = re.match(r"(.*? )(?:\S*/)?java (.*?)((?:\S+\.)?(?:QuorumPeerMain|kafka\.Kafka)\b.*)", line)
    if not found:
        return line
    heap = " ".join(re.findall(r"-Xm[xs]\S+", found[2]))
    words = found[3].split(" --override")[0].replace("org.apache.zookeeper.server.quorum.", "")
    return f"{found[1]}java {heap} … {re.sub(r' /[^ ]*/', ' ', words)}"


def fit(line: str, columns: int = COLUMNS) -> str:
    """The line, cut to the width of the picture."""
    line = line.expandtabs(4)
    return line if len(line) <= columns else line[: columns - 1] + "…"


def wrapped(line: str, columns: int = COLUMNS) -> list[str]:
    """The line as lines of the picture's width, those after the first set in."""
    line = line.expandtabs(4)
    if line.startswith("$ "):
        return " \\\n".join(textwrap.wrap(line, columns - 2, subsequent_indent="    ", break_on_hyphens=False)).split(
            "\n"
        )
    first, rest, width = line[:columns], line[columns:], columns - 4
    return [first, *("    " + rest[i : i + width] for i in range(0, len(rest), width))]


def output_of(command: str) -> list[str]:
    """The command line and what it prints, as lines; nothing if it asks for a memory group where there is none."""
    if str(_GROUP) in command and not (_GROUP / "memory.limit_in_bytes").exists():
        return []
    done = subprocess.run(
        ["bash", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    lines = clean_lines(done.stdout.decode(errors="replace"))
    return [f"$ {command}", *(re.sub(r"(?<= \d)(\.\d+\.\d+)-\S+(?= #)", r"\1…", line) for line in lines)]


def without_venues(lines: Sequence[str]) -> list[str]:
    """Lines of JSON with what each `by_venue` holds left out."""
    kept: list[str] = []
    close = None
    for line in lines:
        if close is None:
            kept.append(line)
            found = re.fullmatch(r'( *)"by_venue": \{', line)
            close = f"{found[1]}}}" if found else None
        elif line.rstrip(",") == close:
            kept[-1] += f" … {line.strip()}"
            close = None
    return kept


def middle_out(lines: Sequence[str], head: int, tail: int) -> list[str]:
    """The first and last lines, with a mark for what is left out between."""
    if len(lines) <= head + tail + 1:
        return list(lines)
    return [*lines[:head], f"  … {len(lines) - head - tail} lines …", *lines[-tail:]]


def take(folder: Path) -> dict[str, list[str]]:
    """Run the pipeline in ZooKeeper mode and take each picture's lines; whatever happens, nothing is left running."""
    pictures = {"system": [line for command in SYSTEM for line in output_of(command)]}
    python, results = ".venv/bin/python", folder / "results"
    with LocalBroker(mode="zookeeper", say=lambda line: print(line, file=sys.stderr)) as broker:
        broker.create_topic("mock_l1_stream")
        report = ["backtest.py", "--out", str(results)]
        backtest = subprocess.Popen([python, *report], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        producer = subprocess.Popen([python, "kafka_producer.py"], stderr=subprocess.DEVNULL)
        try:
            time.sleep(_PAUSE_S)
            lines = output_of(PROCESSES)
            ours = [short_command(line) for line in lines if any(program in line for program in PROGRAMS)]
            pictures["processes"] = [*lines[:2], *ours, *output_of(LISTENERS), *output_of(PEAK)]
            pictures["console-consumer"] = [part for line in output_of(CONSOLE) for part in wrapped(line)]
            printed = backtest.communicate(timeout=900)[0]
            if backtest.returncode or producer.wait(timeout=60):
                raise SystemExit("the run failed: no picture of its result")
            pictures["console-consumer"] += filter(None, output_of(LAG))
            pictures["output-json"] = [
                f"$ {python} {' '.join(report)}",
                *middle_out(without_venues(clean_lines(printed)), 44, 9),
            ]
        finally:
            for program in (backtest, producer):
                program.kill()
                program.wait()
    return pictures


def font(size_px: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans Mono, which comes with matplotlib; that is not imported."""
    where = importlib.util.find_spec("matplotlib").submodule_search_locations[0]
    return ImageFont.truetype(str(Path(where) / "mpl-data" / "fonts" / "ttf" / "DejaVuSansMono.ttf"), size_px)


def draw(lines: Sequence[str], title: str, caption: str) -> Image.Image:
    """A terminal that shows the lines, under a bar with the title, above one with the caption."""
    letters = font(FONT_PX)
    width = 2 * MARGIN_PX + round(letters.getlength("M" * COLUMNS))
    top, bottom = 2 * LINE_PX, 2 * LINE_PX
    image = Image.new("RGB", (width, top + bottom + (len(lines) + 1) * LINE_PX), BACKGROUND)
    pen = ImageDraw.Draw(image)
    for begin, text, color in ((0, title, TEXT), (image.height - bottom, caption, DIM)):
        pen.rectangle((0, begin, width, begin + top), fill=BAR)
        pen.text((MARGIN_PX, begin + top // 2), fit(text), font=letters, fill=color, anchor="lm")
    for number, line in enumerate(lines):
        color = PROMPT if line.startswith("$ ") else TEXT
        pen.text((MARGIN_PX, top + LINE_PX // 2 + number * LINE_PX), fit(line), font=letters, fill=color)
    return image.quantize(128, Image.Quantize.MAXCOVERAGE)


TITLES = {
    "system": "The machine",
    "processes": "Processes of a run: ZooKeeper, Kafka, backtest, producer; and what listens, on loopback alone",
    "console-consumer": "Kafka's console consumer on the topic (simulated day), and the group after its report (lag 0)",
    "output-json": "The report of the simulated day on stdout: best_parameters, optimized, baselines, savings_vs_baselines_bps",
}


def write(
    pictures: dict[str, list[str]], machine: str, folder: Path, save: Callable[[Image.Image, Path], None]
) -> None:
    """Draw every picture, and give it to `save` with the path it goes to."""
    for name, lines in pictures.items():
        save(draw(lines, TITLES[name], f"Taken on: {machine}"), folder / f"{name}.png")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; see the top of the file."""
    parser = argparse.ArgumentParser(
        prog="python -m deploy.capture", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machine", required=True, help="what machine this is, for the line under each picture")
    parser.add_argument("folder", type=Path, help="where the pictures go")
    flags = parser.parse_args(argv)
    flags.folder.mkdir(parents=True, exist_ok=True)
    write(take(flags.folder), flags.machine, flags.folder, lambda image, path: image.save(path, optimize=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
