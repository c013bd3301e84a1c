"""The API against its documents: schemathesis over the OpenAPI document, newman over the Postman collection, curl over the samples.

Both speak to the real program with PostgreSQL. Prices come from `replay`, or from the real yfinance, which reaches a
stand-in for Yahoo's servers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from app.settings import Settings
from tests.programs import Program
from tests.serving import free_port
from tests.yahoo import Yahoo

SERVICE = Path(__file__).resolve().parents[1]
SAMPLES = SERVICE / "docs" / "api_sample_requests.md"
COLLECTION = SERVICE / "Blockhouse-Market-Data.postman_collection.json"
NEWMAN = SERVICE / ".venv" / "newman" / "node_modules" / ".bin" / "newman"
EXAMPLES = 25
SEED = 1


@pytest.fixture
def address(start: Callable[..., Program], database_settings: Settings, yahoo: Yahoo) -> str:
    """Where the API runs, a program of its own."""
    yahoo.answer("NOSUCHSYMBOL", "404")
    port = free_port()
    start("-m", "app.main", settings=database_settings, API_PORT=str(port)).wait_for("serving on")
    return f"http://127.0.0.1:{port}"


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """A tool, which speaks to no proxy."""
    kept = {name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")}
    return subprocess.run(command, cwd=folder, env=kept, capture_output=True, text=True, timeout=300, check=False)


def test_schemathesis_finds_no_status_that_is_not_documented_and_no_500(address: str, tmp_path: Path) -> None:
    tool = Path(sys.executable).parent / "schemathesis"
    words = [
        "--max-examples",
        str(EXAMPLES),
        "--seed",
        str(SEED),
        "--no-color",
        "--warnings",
        "off",
        "--continue-on-failure",
    ]
    done = run([str(tool), "run", f"{address}/openapi.json", *words], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"Operations:\s+12 selected / 12 total", done.stdout), done.stdout
    assert int(re.search(r"(\d+) generated", done.stdout)[1]) > 500, done.stdout


@pytest.mark.parametrize("provider", ["replay", "yfinance"])
def test_newman_finds_the_collections_assertions_true(address: str, tmp_path: Path, provider: str) -> None:
    newman = shutil.which("newman", path=f"{NEWMAN.parent}{os.pathsep}{os.environ['PATH']}")
    if newman is None:
        pytest.skip("newman is missing: tests/newman/install.sh installs it, and needs Node.js with npm")
    report = tmp_path / "report.json"
    words = ["--env-var", f"baseUrl={address}", "--env-var", f"provider={provider}", "--color", "off"]
    words += ["--reporters", "cli,json", "--reporter-json-export", str(report)]
    done = run([newman, "run", str(COLLECTION), *words], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    counted = json.loads(report.read_text())["run"]["stats"]
    assert counted["assertions"]["failed"] == counted["requests"]["failed"] == 0
    assert counted["requests"]["total"] >= 30
    assert counted["assertions"]["total"] >= 70


def test_the_collection_has_every_route_and_assertions_for_each() -> None:
    collection = json.loads(COLLECTION.read_text(encoding="utf-8"))
    assert collection["info"]["schema"].endswith("/v2.1.0/collection.json")
    requests = [item["request"] for folder in collection["item"] for item in folder["item"]]
    asked = {(each["method"].lower(), "/" + "/".join(each["url"]["path"])) for each in requests}
    asked = {(method, path.replace("{{jobId}}", "{job_id}")) for method, path in asked}
    paths = json.loads((SERVICE / "docs" / "openapi.json").read_text(encoding="utf-8"))["paths"]
    assert {(method, path) for path, methods in paths.items() for method in methods} <= asked
    for folder in collection["item"]:
        for item in folder["item"]:
            assert "pm.test(" in "".join(item["event"][0]["script"]["exec"]), item["name"]


def test_the_sample_requests_are_answered_as_the_document_says(address: str, tmp_path: Path) -> None:
    blocks = re.findall(
        r"```bash\n(curl .*?)\n```\n\n```http\n(.*?)\n```", SAMPLES.read_text(encoding="utf-8"), re.DOTALL
    )
    assert len(blocks) >= 20
    for command, told in blocks:
        ours = command.replace("http://localhost:8000", address).replace(
            "curl ", "curl --silent --show-error --include "
        )
        done = run(["sh", "-c", ours], tmp_path)
        assert done.returncode == 0, done.stderr
        assert shape(done.stdout.replace("\r", "")) == shape(told), command


def shape(answer: str) -> tuple[str, set[str], list[str]]:
    """The status of an answer, those of its headers that the document shows, and the keys of its body."""
    head, _, body = answer.partition("\n\n")
    status, *headers = head.splitlines()
    shown = {"x-cache", "age", "etag", "allow", "retry-after", "content-type"}
    names = {line.partition(":")[0].lower() for line in headers}
    return status.split()[1], names & shown, sorted(json.loads(body)) if body.strip() else []
