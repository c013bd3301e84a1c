"""The documents say what the code does: settings, output keys, targets and Python snippets of the README."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import config

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def row(field: dataclasses.Field) -> str:
    """The line of the README's table for a setting."""
    default = field.default
    text = ",".join(map(str, default)) if isinstance(default, tuple) else str(default)
    shown = "" if isinstance(default, bool) or default == "" else f"`{text}`"
    programs = {2: "both"}.get(len(field.metadata["programs"]), field.metadata["programs"][0].removeprefix("kafka_"))
    flag = "" if field.metadata["secret"] else f"`{config.flag_name(field)}`"
    cells = (f"`{field.name}`", flag, f"`{config.env_name(field)}`", shown)
    return f"| {' | '.join((*cells, field.metadata['unit'], programs, field.metadata['help']))} |"


@pytest.mark.parametrize("field", dataclasses.fields(config.Settings), ids=lambda field: field.name)
def test_every_setting_stands_in_the_table(field: dataclasses.Field) -> None:
    assert row(field) in README


def test_the_table_has_no_setting_that_is_gone() -> None:
    named = set(re.findall(r"^\| `(\w+)` \| (?:`--| \|)", README, re.MULTILINE))
    assert named == {field.name for field in dataclasses.fields(config.Settings)}


def test_every_section_of_output_json_is_explained() -> None:
    schema = json.loads((ROOT / "docs" / "output.schema.json").read_text(encoding="utf-8"))
    explained = re.findall(r"^\| `(\w+)` \| [^-`]", README, re.MULTILINE)
    assert set(schema["properties"]) <= set(explained)


@pytest.mark.parametrize("code", SNIPPETS)
def test_the_python_snippets_run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_make_target_and_linked_file_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"`?make ([a-z]+(?:-[a-z]+)*)", README)) - {"and"} <= targets
    for link in re.findall(r"\]\(([^)#:]+)", README):
        assert (ROOT / link).exists(), link
