"""What a clone starts from: requirements, Makefile, .env.example."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from dataclasses import fields

import pytest

from app.settings import Settings
from local import ROOT, SERVICE

REQUIREMENTS = {
    name: (SERVICE / name).read_text(encoding="utf-8") for name in ("requirements.txt", "requirements-dev.txt")
}
PACKAGES_OF = {"dotenv": "python-dotenv", "kafka": "kafka-python", "sqlalchemy": "SQLAlchemy", "yaml": "PyYAML"}
BROUGHT = {"pandas", "numpy", "curl_cffi", "PIL"}  # by yfinance and matplotlib, in versions that fit the Python
TEST_FILES = {path.stem for path in (SERVICE / "tests").glob("*.py")}
OURS = {"benchmarks", "app", "scripts", "local", "broker", "sor", "tests", "migrations"}


def lines(name: str) -> list[str]:
    bare = (line.split("#")[0].strip() for line in REQUIREMENTS[name].splitlines())
    return [line for line in bare if line]


def names(name: str) -> set[str]:
    return {re.split(r"[\[=]", line)[0] for line in lines(name)}


def imported(folder: str) -> set[str]:
    """The first words of all modules that a folder's files import."""
    found: set[str] = set()
    for path in (SERVICE / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_requirements_are_pinned(name: str) -> None:
    wrong = [line for line in lines(name) if not re.fullmatch(r"[\w.-]+(\[[\w,]+\])?==[\w.]+", line)]
    assert wrong == (["-r requirements.txt"] if "dev" in name else [])


def test_what_is_pinned_is_what_is_installed() -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "freeze"]
    frozen = subprocess.run(pip, capture_output=True, text=True, check=True).stdout.lower().replace("_", "-")
    for line in lines("requirements.txt") + lines("requirements-dev.txt")[1:]:
        assert re.sub(r"\[.*\]", "", line).lower().replace("_", "-") in frozen.splitlines()


def test_what_the_service_imports_is_required() -> None:
    def lacking(folders: tuple[str, ...], installed: set[str]) -> set[str]:
        wanted = set().union(*map(imported, folders)) - OURS - BROUGHT - sys.stdlib_module_names
        return {PACKAGES_OF.get(name, name) for name in wanted} - installed

    assert "fastapi" in lacking(("app",), set())
    assert lacking(("app", "migrations"), names("requirements.txt")) == set()
    assert (
        lacking(("scripts", "local", "tests"), names("requirements.txt") | names("requirements-dev.txt")) <= TEST_FILES
    )


def test_env_example_shows_every_setting_with_its_default() -> None:
    shown = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", (SERVICE / ".env.example").read_text(), re.MULTILINE))
    defaults = {each.metadata["env"]: each.default for each in fields(Settings)}
    assert set(defaults) - set(shown) == set()
    assert set(shown) - set(defaults) == {"KAFKA_PORT", "ZOOKEEPER_PORT"}
    for name in (
        "POSTGRES_DB",
        "POSTGRES_PORT",
        "API_PORT",
        "KAFKA_TOPIC",
        "KAFKA_BOOTSTRAP_SERVERS",
        "MA_WINDOW",
        "LOG_LEVEL",
    ):
        assert shown[name] == str(defaults[name])


def test_every_make_target_explains_itself() -> None:
    text = (SERVICE / "Makefile").read_text()
    wanted = set(re.search(r"^\.PHONY: (.*)$", text, re.MULTILINE)[1].split())
    assert wanted >= {"help", "setup", "run", "test", "bench", "lint"}
    assert set(re.findall(r"^([a-z-]+):.* ## \S", text, re.MULTILINE)) == wanted


def test_make_runs_what_it_says() -> None:
    def shown(*words: str) -> str:
        line = ["make", "-n", *words]
        return subprocess.run(line, cwd=SERVICE, capture_output=True, text=True, timeout=30, check=True).stdout

    assert "scripts/run_local.py --mode kraft\n" in shown("run")
    assert "scripts/run_local.py --mode zookeeper\n" in shown("run", "MODE=zookeeper")
    assert "../setup.sh . requirements.txt\n" in shown("run")
    assert "../setup.sh . requirements-dev.txt\n" in shown("test")
    assert "CI=1 .venv/bin/python -m pytest -n 5" in shown("test", "WORKERS=5")
    assert (ROOT / "setup.sh").exists()
