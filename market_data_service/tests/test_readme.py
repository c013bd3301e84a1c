"""README.md says what the code does: settings, metrics, routes, statuses, messages; and its commands are run.

A command is run here, or it is marked "needs Docker", or RUN_BY names the test that runs it.
"""

from __future__ import annotations

import datetime
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import httpx
import jsonschema
import prometheus_client
import psycopg
import pytest
from databases import new_database
from programs import Program
from serving import StubProviders, serving

from app import events, metrics
from app.errors import RateLimitedError
from app.main import app
from app.settings import Settings, load
from broker import ports
from local import SERVICE
from local.postgres import EmbeddedPostgres

README = (SERVICE / "README.md").read_text(encoding="utf-8")
SECTIONS = [
    "Overview",
    "Architecture",
    "Setup (Local/Docker)",
    "API Usage",
    "Kafka Pipeline",
    "Testing",
    "Troubleshooting",
    "Credits",
]
DOCKER = "needs Docker"
RUN_BY = {
    "make run": "test_run_local.py::test_everything_comes_up_answers_as_the_seed_says_and_is_gone_after_sigterm",
    "make replay": "test_run_local.py::test_everything_comes_up_answers_as_the_seed_says_and_is_gone_after_sigterm",
    "make test": "test_setup.py::test_make_runs_what_it_says",
    "make lint": "test_commands.py::test_flake8_finds_nothing",
    "make bench": "test_bench.py::test_bench_says_what_it_does_and_what_is_wrong",
}
BY_HAND = ["python -m venv venv", "source venv/bin/activate", "pip install -r requirements.txt"]
WORKERS = {  # and what they write into the table of heartbeats
    "PYTHONPATH=. python scripts/outbox_relay.py": "relay",
    "PYTHONPATH=. python scripts/kafka_consumer.py": "consumer",
    "PYTHONPATH=. python scripts/poller.py": "poller",
}
UVICORN = "uvicorn app.main:app --reload"
Start = Callable[..., Program]


@dataclass(frozen=True)
class Command:
    """A line of a block of shell commands, and what its comment says."""

    line: str
    comment: str


def commands() -> list[Command]:
    lines = [line for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]
    parts = [re.fullmatch(r"(.*?)(?:\s+# (.*))?", line) for line in lines if line]
    return [Command(each[1], each[2] or "") for each in parts if each]


def here(*beginnings: str) -> list[str]:
    """The commands that begin so, without those that need Docker."""
    return [each.line for each in commands() if each.line.startswith(beginnings) and DOCKER not in each.comment]


def rows(title: str) -> list[list[str]]:
    """The cells of the table whose first column is called so, without backticks."""
    lines = README.split(f"\n| {title} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip().replace("`", "") for cell in line[1:-1].split("|")] for line in lines]


# --- what it says ----------------------------------------------------------------------------------------------------


def test_it_has_the_seeds_sections_in_its_order_and_links_to_them() -> None:
    assert re.findall(r"^## (.*)$", README, re.MULTILINE) == SECTIONS
    assert re.findall(r"^\* \[(.*?)\]", README, re.MULTILINE) == SECTIONS


def test_it_opens_with_two_commands_and_the_picture() -> None:
    opening = README.split("## ", 1)[0]
    assert [each.line for each in commands()][:2] == ["make run", "make test"]
    assert opening.index("make test") < opening.index("docs/architecture.png")


def test_every_file_it_names_or_links_to_is_there() -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", README)
    named = re.findall(
        r"`((?:app|scripts|docs|alerts|tests|docker)/[\w./-]+\.\w+|[\w-]+\.postman_collection\.json)`", README
    )
    assert [path for path in {*links, *named} if not (SERVICE / path).exists()] == []


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md", "docs/commands.md"])
def test_links_to_sections_lead_somewhere(page: str) -> None:
    here = SERVICE / page
    for path, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", here.read_text()):
        text = (here.parent / path if path else here).read_text()
        titles = [
            re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-")
            for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        ]
        assert anchor in titles, f"{page}: {path}#{anchor}"


def test_every_setting_stands_in_the_table_with_its_default_and_no_other() -> None:
    told = {name: default for name, default, _ in rows("variable")}
    assert list(told) == [each.metadata["env"] for each in fields(Settings)]
    assert load({name: text for name, text in told.items() if text}, env_file="/dev/null") == Settings()
    assert [name for name, text in told.items() if not text] == [
        each.metadata["env"] for each in fields(Settings) if each.default == ""
    ]


def test_every_metric_stands_in_the_table_with_its_labels_and_no_other() -> None:
    kinds = (prometheus_client.Counter, prometheus_client.Gauge, prometheus_client.Histogram)
    exported = {}
    for each in vars(metrics).values():
        if isinstance(each, kinds):
            name = each._name + ("_total" if isinstance(each, prometheus_client.Counter) else "")
            exported[name] = list(each._labelnames)
    told = {name: re.findall(r"\w+", labels) for name, labels, _ in rows("metric")}
    assert told == exported


def test_the_labels_it_tells_of_fetches_are_those_that_are_counted() -> None:
    (row,) = [row for row in rows("metric") if row[0] == "prices_fetched_total"]
    assert set(re.findall(r"\w+", row[2].split(":")[1])) == {metrics.OK, "error", *metrics.FETCH_RESULTS.values()}


def test_every_route_stands_in_the_table_and_no_other() -> None:
    routes = {f"{method.upper()} {path}" for path, methods in app.openapi()["paths"].items() for method in methods}
    told = [row[0] for row in rows("route")]
    assert sorted(told) == sorted(routes)


def test_every_status_of_an_error_stands_in_the_table_but_the_one_that_must_not_be() -> None:
    paths = app.openapi()["paths"].values()
    documented = {status for methods in paths for route in methods.values() for status in route["responses"]}
    of_no_operation = {"405"}  # OpenAPI has no place for it
    wanted = {status for status in documented if status >= "400"} - {"500"} | of_no_operation
    assert {row[0] for row in rows("status")} == wanted


def test_the_event_it_shows_is_one() -> None:
    (shown,) = [block for block in re.findall(r"```json\n(.*?)\n```", README, re.DOTALL) if "raw_response_id" in block]
    schema = json.loads((SERVICE / "docs" / "price-event.schema.json").read_text())
    jsonschema.validate(json.loads(shown), schema)
    event = events.decode(shown.encode(), [], datetime.datetime.now(datetime.timezone.utc))
    assert json.loads(events.encode(event)) == json.loads(shown)


# --- its commands ----------------------------------------------------------------------------------------------------


def test_every_command_is_run_by_a_test_or_needs_docker() -> None:
    lines = {each.line for each in commands() if DOCKER not in each.comment}
    assert lines == {*RUN_BY, *BY_HAND, *WORKERS, UVICORN, *that_end()}
    assert all(each.line.startswith("docker ") for each in commands() if DOCKER in each.comment)
    for place in RUN_BY.values():
        file, name = place.split("::")
        assert f"\ndef {name}(" in (SERVICE / "tests" / file).read_text(), place


def that_end() -> list[str]:
    """The commands that do something and end."""
    return [line for line in here("make help", "curl ", "PYTHONPATH=. python") if line not in WORKERS]


@pytest.fixture
def shell(settings: Settings, programs: list[Program], tmp_path: Path) -> Callable[..., Program]:
    """A function that starts a line as a user's shell does, with the environment's Python first on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def begin(line: str, **environment: str) -> Program:
        programs.append(Program(["bash", "-c", line], settings.environment() | {"PATH": path} | environment, tmp_path))
        return programs[-1]

    return begin


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.usefixtures("yahoo", "topics")
def test_the_commands_that_end_do_so_well(
    settings: Settings, shell: Callable[..., Program], eventually: Callable[..., object]
) -> None:
    port = ports.free_port()
    shell("python -m app.main", API_PORT=str(port))
    eventually(lambda: answers(port))
    for line in that_end():
        program = shell(line.replace("localhost:8000", f"127.0.0.1:{port}"))
        assert (program.finish(), program.err) == (0, ""), line
        assert program.out, line
        if line.startswith("curl"):
            assert shown(line, json.loads(program.out)), program.out


def shown(line: str, answer: dict[str, object]) -> bool:
    """Whether the answer has the form of the one that README shows for the command; the day has no average yet."""
    examples = [json.loads(text) for text in re.findall(r'^\{"(?:symbol|message)".*"\}$', README, re.MULTILINE)]
    wanted = {
        "latest": examples[0],
        "/poll": examples[1],
        "moving-average": {"code": "no_average"},
        "ready": {"checks": {}},
    }
    (example,) = [each for word, each in wanted.items() if word in line.split("?")[0]]
    return set(example) <= set(answer) and ("code" in answer or set(answer) - set(example) <= {"status"})


@pytest.mark.usefixtures("topics")
@pytest.mark.parametrize("line", WORKERS)
def test_the_programs_that_go_on_work_and_end_with_0(
    line: str, db: psycopg.Connection[dict], shell: Callable[..., Program], eventually: Callable[..., object]
) -> None:
    assert line in here(line)
    program = shell(line)
    eventually(lambda: db.execute("SELECT FROM heartbeats WHERE name = %s", [WORKERS[line]]).fetchone() is not None)
    assert program.stop() == 0, program.err


def test_uvicorn_serves_the_api_as_the_seed_starts_it(
    shell: Callable[..., Program], eventually: Callable[..., object]
) -> None:
    assert UVICORN in here("uvicorn")
    port = ports.free_port()
    program = shell(UVICORN, UVICORN_PORT=str(port))
    eventually(lambda: answers(port))
    program.stop()
    eventually(lambda: not ports.is_taken("127.0.0.1", port))


def test_the_environment_by_hand_is_made_and_the_requirements_are_installed_into_it(tmp_path: Path) -> None:
    assert [line for line in BY_HAND if line not in here(line)] == []
    lines = [f"{sys.executable} -m venv venv", BY_HAND[1], "python -c 'import sys; print(sys.prefix)'"]
    made = subprocess.run(["bash", "-ec", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert made.stdout == f"{tmp_path / 'venv'}\n"
    # into the environment of the tests, which has them all: no package is fetched
    offline = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PIP_NO_INDEX": "1"}
    done = subprocess.run(
        ["bash", "-c", BY_HAND[2]], cwd=SERVICE, env=offline, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "already satisfied: fastapi==" in done.stdout


# --- its troubles ----------------------------------------------------------------------------------------------------


def told(beginning: str) -> str:
    """The trouble of the table that begins so, up to what is left out."""
    (row,) = [row[0] for row in rows("what you see") if row[0].startswith(beginning)]
    return row.split("...")[0].strip()


def test_a_taken_port(start: Start, database_settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start("-m", "app.main", settings=replace(database_settings, api_port=port))
        assert program.finish() == 2
    assert program.err.startswith(told("error: API_PORT").replace("8000", str(port)))


def test_a_bad_setting(start: Start, database_settings: Settings) -> None:
    program = start("-m", "app.main", settings=database_settings, MA_WINDOW="abc")
    assert program.finish() == 2
    assert program.err.startswith(told("error: MA_WINDOW"))


def test_no_database_for_create_tables(start: Start) -> None:
    program = start("scripts/create_tables.py", settings=Settings(postgres_port=1))
    assert program.finish() == 1
    assert program.err.startswith(told("error: connection failed"))


def test_no_kafka_for_the_relay(start: Start, database_settings: Settings) -> None:
    program = start("scripts/outbox_relay.py", settings=database_settings)
    program.wait_for(told("no Kafka broker"))
    assert program.stop() == 0


def test_no_tables_and_no_database_for_the_api(postgres: EmbeddedPostgres, database_settings: Settings) -> None:
    with new_database(postgres) as empty_url:
        for url, code in (
            (empty_url, "schema_missing"),
            (Settings(postgres_port=1).database_url, "database_unavailable"),
        ):
            with serving(replace(database_settings, given_database_url=url), StubProviders(AAPL="196.45")) as client:
                answer = client.get("/prices/latest", params={"symbol": "AAPL"})
            assert (answer.status_code, answer.json()["code"]) == (503, code)
            assert told(code).startswith(f"{code} in a 503")


def test_degraded_and_unknown_symbols_and_too_many_calls(database_settings: Settings) -> None:
    refused = RateLimitedError("yfinance", "too many calls", 7)
    with serving(database_settings, StubProviders(AAPL=refused)) as client:
        ready = client.get("/ready")
        assert (ready.status_code, told('"status":"degraded"').split(" ")[0] in ready.text) == (200, True)
        for symbol, code, status in (("NONE", "unknown_symbol", 404), ("AAPL", "provider_rate_limited", 503)):
            answer = client.get("/prices/latest", params={"symbol": symbol})
            assert (answer.status_code, answer.json()["code"]) == (status, code)
            assert told(code).endswith(f"in a {status}")
