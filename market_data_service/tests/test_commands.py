"""Demonstration 10: the seed's README walked line by line. docs/commands.md names the test of everything that it names.

The seed is beside the repository, in ../shared; a clone without it checks the table's tests only.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.main import app
from app.models import Base
from app.settings import Settings
from local import ROOT, SERVICE

SEED = ROOT.parent / "shared" / "seeds" / "003_0004990ad74d5025.txt"
PAGE = SERVICE / "docs" / "commands.md"
ROWS = re.findall(r"^\| `(.+?)` \| (.+?) \| (.+?) \|$", PAGE.read_text(), re.MULTILINE)
PROGRAMS = r"(?:git|cd|docker|python|source|pip|uvicorn|pytest|flake8)\b"
PORTS = r"(?:ports |-p |localhost:)\d[^.\n]*"
COUNTS = {
    "command": 16,
    "in a container": 4,
    "endpoint": 4,
    "file": 12,
    "table": 1,
    "topic": 1,
    "variable": 3,
    "port": 4,
}
COUNTS |= {"field": 6, "text": 1}
KINDS = ("command", "in a container", "endpoint", "file", "table", "topic", "variable", "port", "field", "text")


@pytest.fixture(scope="module")
def seed() -> str:
    if not SEED.is_file():
        pytest.skip("the seed is not here: ../shared is missing")
    return re.sub(r"\\\n\s*", " ", SEED.read_text())


def named_by(seed: str) -> dict[str, set[str]]:
    """What the seed names, by kind."""
    lines = [re.split(r"\s{2}#", line.strip())[0] for line in seed.splitlines()]
    routes = r"\b(?:GET|POST) /[\w/]+|(?<=localhost:8000)/\w+|(?<![\w.])/\w+\.json"
    files = r"(?<![\w/<-])(?:\.env|[\w-]+(?:[/.][\w-]+)*\.(?:py|txt|yml|json|png)|(?:app|tests)/)(?![\w/])"
    return {
        "command": {re.sub(r"\s+", " ", line) for line in lines if re.match(PROGRAMS, line)},
        "in a container": set(re.findall(r'bash -c "([^"]+)"', seed)),
        "endpoint": set(re.findall(routes, seed)),
        "file": set(re.findall(files, seed)),
        "table": set(re.findall(r"`(\w+)` table", seed)),
        "topic": set(re.findall(r"topic `([\w-]+)`", seed)),
        "variable": set(re.findall(r"^([A-Z_]+)=", seed, re.MULTILINE)),
        "port": {port for text in re.findall(PORTS, seed) for port in re.findall(r"\d{4}", text)},
        "field": set(re.findall(r'^  "(\w+)":', seed, re.MULTILINE)),
        "text": set(re.findall(r'\{"message": "(.*?)"\}', seed)),
    }


def cited(cell: str) -> list[str]:
    return re.findall(r"`(test_\w+\.py(?:::\w+)+)`", cell)


def defined() -> set[str]:
    """Every test of the folder, as `file::name` or `file::class::name`."""
    return {
        each
        for path in (SERVICE / "tests").glob("test_*.py")
        for each in names_in(ast.parse(path.read_text()), path.name)
    }


def names_in(node: ast.Module | ast.ClassDef, place: str) -> Iterator[str]:
    for each in node.body:
        if isinstance(each, ast.ClassDef):
            yield from names_in(each, f"{place}::{each.name}")
        elif isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{place}::{each.name}"


def test_everything_that_the_seed_names_is_in_the_table(seed: str) -> None:
    wanted = {(name, kind) for kind, names in named_by(seed).items() for name in names}
    assert wanted - {(name, kind) for name, kind, _ in ROWS} == set()


def test_the_walk_finds_what_is_known_to_be_in_the_seed(seed: str) -> None:
    named = named_by(seed)
    assert set(named) == set(KINDS)
    assert {kind: len(names) for kind, names in named.items()} == COUNTS
    assert {"docker compose up -d", "flake8 app/", "pytest", "uvicorn app.main:app --reload"} <= named["command"]
    assert named["port"] == {"5432", "9092", "8000", "2181"}
    assert named["endpoint"] == {"GET /prices/latest", "POST /prices/poll", "/docs", "/openapi.json"}
    assert (named["table"], named["topic"]) == ({"moving_averages"}, {"price-events"})


def test_a_line_that_is_added_to_the_seed_is_missed(seed: str) -> None:
    added = seed + "\npython scripts/new.py\n"
    wanted = {(name, kind) for kind, names in named_by(added).items() for name in names}
    missing = wanted - {(name, kind) for name, kind, _ in ROWS}
    assert missing == {("python scripts/new.py", "command"), ("scripts/new.py", "file")}


def test_every_test_that_the_table_names_is_there() -> None:
    assert ROWS
    assert {kind for _, kind, _ in ROWS} == set(KINDS)
    there = defined()
    for name, _, cell in ROWS:
        assert cited(cell), f"{name} has no test"
        assert [each for each in cited(cell) if each not in there] == [], name


def test_every_table_route_script_and_variable_of_the_service_is_in_it_too() -> None:
    named = {name for name, _, _ in ROWS}
    scripts = {f"scripts/{path.name}" for path in (SERVICE / "scripts").glob("*.py")}
    assert set(Base.metadata.tables) | scripts <= named
    assert {field.metadata["env"] for field in Settings.__dataclass_fields__.values()} <= named
    assert {
        f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods
    } <= named


# --- commands that no other file runs --------------------------------------------------------------------------------


def run(line: str) -> subprocess.CompletedProcess[str]:
    """A line in a user's shell, with the environment's programs first on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTEST_ADDOPTS": "-p no:cacheprovider"}
    return subprocess.run(
        ["bash", "-c", line], cwd=SERVICE, env=environment, capture_output=True, text=True, check=False
    )


def test_flake8_finds_nothing() -> None:
    done = run("flake8 app/")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_pytest_finds_the_same_tests_by_both_its_names_and_this_one_is_among_them() -> None:
    both = [run(f"{line} --collect-only -q tests/test_commands.py") for line in ("pytest", "python -m pytest")]
    assert [done.returncode for done in both] == [0, 0], both[0].stdout
    first, second = (re.findall(r"^tests/test_\w+\.py::.*$", done.stdout, re.MULTILINE) for done in both)
    assert first == second
    assert f"tests/test_commands.py::{test_flake8_finds_nothing.__name__}" in first


def place_of(name: str) -> Path:
    """Where the file is; the seed names some without their folder."""
    places = [SERVICE / folder / name for folder in ("", "tests", "scripts")]
    return next((place for place in places if place.exists()), places[0])


def test_a_clone_has_every_file_of_the_table() -> None:
    files = [name for name, kind, _ in ROWS if kind == "file" and name != ".env"]
    places = [place_of(name) for name in files]
    assert [place for place in places if not place.exists()] == []
    if (ROOT / ".git").exists():
        ignored = subprocess.run(
            ["git", "-C", ROOT, "check-ignore", *places], capture_output=True, text=True, check=False
        )
        assert ignored.stdout == ""
