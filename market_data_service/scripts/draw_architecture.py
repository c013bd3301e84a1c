"""Draw docs/architecture.png from the code: processes of docker-compose.yml, routes of the API, tables and topics that each one uses.

    PYTHONPATH=. python scripts/draw_architecture.py [--out docs/architecture.png] [--json]

What a process reads and writes is found in the SQL of all functions that can be reached from its file. The picture carries
what it was drawn from (PNG text `topology`); tests/test_architecture.py compares that with the code. Needs requirements-dev.txt.
Exit codes: 0 done, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib as mpl
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from app import providers
from app.models import Base
from app.settings import Settings

SERVICE = Path(__file__).resolve().parents[1]
PICTURE = SERVICE / "docs" / "architecture.png"
TEXT = "topology"
TABLES = list(Base.metadata.tables)
WRITES = re.compile(r"\b(?:INSERT INTO|UPDATE|DELETE FROM)\s+(\w+)")
READS = re.compile(r"(?<!DELETE )\b(?:FROM|JOIN)\s+(\w+)")

Node = tuple[str, str]  # module, name at its top level
Topology = dict[str, Any]


# --- what there is ---------------------------------------------------------------------------------------------------


def topology() -> Topology:
    """Processes with their tables and topics, routes, providers, and the addresses of the servers."""
    services = yaml.safe_load((SERVICE / "docker-compose.yml").read_text())["services"]
    programs = {
        name: _file_of(each) for name, each in services.items() if "build" in each and each.get("restart") != "no"
    }
    return {
        "processes": {name: _uses(path) for name, path in programs.items()},
        "routes": routes(),
        "tables": TABLES,
        "topics": {"events": Settings().kafka_topic, "dead_letters": Settings().kafka_dlq_topic},
        "providers": list(providers.names()),
        "servers": {name: each["image"] for name, each in services.items() if "build" not in each},
    }


def routes() -> list[str]:
    """The API's methods and paths, such as `GET /prices/latest`."""
    from app.main import app

    paths = app.openapi()["paths"]
    return sorted(f"{method.upper()} {path}" for path, methods in paths.items() for method in methods)


def _file_of(service: dict[str, Any]) -> Path:
    """The file that a service of the compose file runs; without a command it is the image's, the API."""
    scripts = [word for word in service.get("command", []) if word.endswith(".py")]
    return SERVICE / (scripts[0] if scripts else "app/main.py")


def _uses(path: Path) -> dict[str, Any]:
    nodes = _reachable(_module_name(path))
    sql = "\n".join(text for node in nodes for text in _source(node[0]).texts(node[1]))
    written = set(WRITES.findall(sql))
    read = set(READS.findall(sql))
    reached = {name for module, name in nodes if module == "app.kafka"}
    return {
        "file": path.relative_to(SERVICE).as_posix(),
        "writes": [table for table in TABLES if table in written],
        "reads": [table for table in TABLES if table in read - written],
        "publishes": "Publisher" in reached,
        "consumes": "Group" in reached,
        "asks_providers": any(module == "app.providers.process" for module, _ in nodes),
    }


@dataclass
class Source:
    """A module, as far as it matters who uses what."""

    nodes: dict[str, list[ast.AST]] = field(default_factory=dict)  # by their names at the top level
    imported: dict[str, str] = field(default_factory=dict)  # local name -> `module` or `module:name`

    def texts(self, name: str) -> Iterator[str]:
        """The strings in the node."""
        for node in self.nodes[name]:
            yield from (str(each.value) for each in ast.walk(node) if isinstance(each, ast.Constant))

    def references(self, module: str, name: str) -> Iterator[Node]:
        """What the node refers to, in this module and in others of the service."""
        for each in (inner for node in self.nodes[name] for inner in ast.walk(node)):
            if isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name):
                target, _, wanted = self.imported.get(each.value.id, f"{module}:{each.value.id}").partition(":")
                yield target, wanted or each.attr
            elif isinstance(each, ast.Name):
                target, _, wanted = self.imported.get(each.id, f"{module}:{each.id}").partition(":")
                yield target, wanted


@cache
def _source(module: str) -> Source:
    found = Source()
    path = _path_of(module)
    for node in ast.parse(path.read_text()).body if path else []:
        for name in _names_of(node):
            found.nodes.setdefault(name, []).append(node)
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.imported[alias.asname or alias.name] = inner if _path_of(inner) else f"{node.module}:{alias.name}"
    return found


def _names_of(node: ast.stmt) -> list[str]:
    """The names it is known under; a function belongs to what decorates it, too: a route to its router."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        inner = (each for decorator in node.decorator_list for each in ast.walk(decorator))
        return [node.name, *(each.value.id for each in inner if _is_of_name(each))]
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
    return [] if isinstance(node, ast.Import | ast.ImportFrom) else ["<module>"]


def _is_of_name(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(SERVICE).with_suffix("").parts)


def _path_of(module: str) -> Path | None:
    """The file of one of the service's modules; None for all others."""
    place = SERVICE.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def _reachable(module: str) -> set[Node]:
    """Everything that the module's top level, and what it calls, refers to."""
    waiting = [(module, name) for name in _source(module).nodes]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        source = _source(node[0]) if _path_of(node[0]) else Source()
        if node in seen or node[1] not in source.nodes:
            continue
        seen.add(node)
        waiting += source.references(*node)
    return seen


# --- the picture -----------------------------------------------------------------------------------------------------

COLOURS = {"api": "#2c6fbb", "relay": "#c8553d", "consumer": "#3a7d44", "poller": "#8a5a9e"}
WHAT = {
    "api": "answers clients",
    "relay": "publishes the outbox",
    "consumer": "keeps the averages",
    "poller": "fetches what is due",
}
BOXES = {  # left, bottom, width, height; the picture is 140 x 86
    "clients": (2, 62, 17, 12),
    "providers": (2, 22, 17, 14),
    "api": (28, 36, 32, 48),
    "poller": (28, 6, 32, 12),
    "postgres": (71, 6, 35, 78),
    "relay": (116, 72, 22, 12),
    "kafka": (116, 36, 22, 20),
    "consumer": (116, 6, 22, 12),
}
TO_PROVIDERS = {"api": ((28, 42), (19, 32)), "poller": ((28, 12), (19, 26))}
TO_DATABASE = {
    "api": "one transaction:\nprice, response,\noutbox",
    "poller": "lease;\nprice and\nnext slot",
    "relay": "claim,\nmark",
    "consumer": "averages\nand offsets",
}
INK, GREY, PAPER = "#222222", "#666666", "#f6f5f1"
Point = tuple[float, float]


def draw(found: Topology) -> Figure:
    """The picture of a topology. Raises KeyError for a process that has no place in it yet."""
    with mpl.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        figure = Figure(figsize=(14, 8.6), dpi=110, facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, 140), ylim=(0, 86))
        axes.axis("off")
        _outside(axes, found)
        for name, process in found["processes"].items():
            _process(axes, name, process["file"])
        _routes(axes, found["routes"])
        _database(axes, found)
        _kafka(axes, found)
        _arrows(axes, found)
    return figure


def _box(axes: Axes, name: str, title: str, line: str, edge: str = GREY) -> None:
    left, bottom, width, height = BOXES[name]
    style = {"boxstyle": "round,pad=0,rounding_size=1.2", "linewidth": 1.6, "edgecolor": edge, "facecolor": PAPER}
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, **style))
    axes.text(left + 1.6, bottom + height - 3.2, title, fontsize=12, weight="bold", color=edge if edge != GREY else INK)
    axes.text(left + 1.6, bottom + height - 5.2, line, color=GREY, fontsize=8.5, va="top", linespacing=1.4)


def _outside(axes: Axes, found: Topology) -> None:
    _box(axes, "clients", "clients", "HTTP, JSON")
    _box(axes, "providers", "providers", "in a child process")
    for number, name in enumerate(found["providers"]):
        axes.text(3.6, 26.5 - 2.6 * number, name, family="DejaVu Sans Mono", fontsize=8.5)


def _process(axes: Axes, name: str, file: str) -> None:
    left, bottom, _, height = BOXES[name]
    _box(axes, name, name, WHAT[name], COLOURS[name])
    axes.text(left + 1.6, bottom + height - 9.2, file, family="DejaVu Sans Mono", fontsize=8.5)


def _routes(axes: Axes, listed: Sequence[str]) -> None:
    left, bottom, _, height = BOXES["api"]
    for number, route in enumerate(sorted(listed, key=lambda each: each.split()[1])):
        method, path = route.split()
        y = bottom + height - 13.4 - 2.35 * number
        axes.text(left + 1.6, y, method, family="DejaVu Sans Mono", fontsize=8, color=GREY)
        axes.text(left + 7.4, y, path, family="DejaVu Sans Mono", fontsize=8)


def _database(axes: Axes, found: Topology) -> None:
    """Tables, and beside each a mark for every process that uses it."""
    left, bottom, width, height = BOXES["postgres"]
    _box(axes, "postgres", "PostgreSQL", found["servers"]["postgres"])
    columns = {name: left + width - 12 + 2.9 * number for number, name in enumerate(found["processes"])}
    for name, x in columns.items():
        axes.text(x - 0.6, bottom + height - 11.6, name, rotation=50, fontsize=8, color=COLOURS[name])
    for number, table in enumerate(found["tables"]):
        y = bottom + height - 15 - 5.6 * number
        axes.text(left + 1.6, y, table, family="DejaVu Sans Mono", fontsize=9, va="center")
        for name, x in columns.items():
            process = found["processes"][name]
            if table in process["writes"] + process["reads"]:
                filled = COLOURS[name] if table in process["writes"] else "white"
                axes.plot(x, y, "o", markersize=8, color=COLOURS[name], markerfacecolor=filled, markeredgewidth=1.6)
    axes.plot(left + 2.6, bottom + 4.6, "o", markersize=8, color=GREY)
    axes.text(left + 4.4, bottom + 4.6, "writes", va="center", fontsize=8.5, color=GREY)
    axes.plot(left + 12.6, bottom + 4.6, "o", markersize=8, color=GREY, markerfacecolor="white", markeredgewidth=1.6)
    axes.text(left + 14.4, bottom + 4.6, "reads only", va="center", fontsize=8.5, color=GREY)


def _kafka(axes: Axes, found: Topology) -> None:
    left, bottom, _, height = BOXES["kafka"]
    images = [found["servers"][name].split("/")[-1] for name in ("kafka", "zookeeper")]
    _box(axes, "kafka", "Kafka", "\n".join(images))
    for number, topic in enumerate(found["topics"].values()):
        axes.text(left + 1.6, bottom + height - 13.4 - 3.4 * number, topic, family="DejaVu Sans Mono", fontsize=9)


def _arrows(axes: Axes, found: Topology) -> None:
    """Each kind of arrow is drawn for the processes that do such a thing."""
    processes = found["processes"]
    _arrow(axes, (19, 68), (28, 68), "", INK)
    for name, process in processes.items():
        colour = COLOURS[name]
        if process["asks_providers"]:
            _arrow(axes, *TO_PROVIDERS[name], "", colour)
        _to_database(axes, name, colour)
        if process["consumes"]:
            _arrow(axes, (124, 36), (124, 18), "events", colour)
        if process["publishes"] and process["consumes"]:
            _arrow(axes, (131, 18), (131, 36), "bad\nmessages", colour)
        elif process["publishes"]:
            _arrow(axes, (127, 72), (127, 56), "events,\nacknowledged", colour)


def _to_database(axes: Axes, name: str, colour: str) -> None:
    left, bottom, width, height = BOXES[name]
    database_left, _, database_width, _ = BOXES["postgres"]
    y = bottom + height / 2
    ends = (
        ((left, y), (database_left + database_width, y))
        if left > database_left
        else ((left + width, y), (database_left, y))
    )
    _arrow(axes, *ends, TO_DATABASE[name], colour, "<|-|>")


def _arrow(axes: Axes, start: Point, end: Point, text: str, colour: str, style: str = "-|>") -> None:
    shape = {"arrowstyle": style, "mutation_scale": 14, "linewidth": 1.6, "color": colour, "shrinkA": 2, "shrinkB": 2}
    axes.add_patch(FancyArrowPatch(start, end, **shape))
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    if start[0] == end[0]:
        axes.text(x - 0.8, y, text, ha="right", va="center", fontsize=8, color=colour)
    else:
        axes.text(x, y + 1, text, ha="center", va="bottom", fontsize=7.5, color=colour)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PICTURE, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print what would be drawn instead")
    flags = parser.parse_args(argv)
    found = topology()
    if flags.json:
        print(json.dumps(found, indent=1))
    else:
        draw(found).savefig(flags.out, metadata={"Software": None, TEXT: json.dumps(found)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
