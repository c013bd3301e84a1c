"""app/settings.py: every variable of the service, what it takes, and what a bad one says."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import psycopg
import pytest

from app import settings
from app.errors import SettingsError
from app.settings import Settings

SERVICE = Path(__file__).resolve().parents[1]
CA_FILE = str(SERVICE / "tests/data/ca.pem")

# Name: default, a good value and what it becomes, bad values.
DATABASE_URLS_REFUSED = [
    "mysql://u@h/d",
    "h:5432",
    "postgresql:/x",
    "postgresql://u@h:port/d",
    "postgresql://u@h/d?color=1",
    f"postgresql://u@{'x' * 64}/d",
]
VARIABLES = {
    "POSTGRES_USER": ("postgres", "reader", "reader", []),
    "POSTGRES_PASSWORD": ("", "p@ss:w/rd%", "p@ss:w/rd%", []),
    "POSTGRES_DB": ("marketdata", "other", "other", []),
    "POSTGRES_HOST": ("127.0.0.1", "db.example", "db.example", ["a b", "a/b", "user@host", "a..b", "x" * 64]),
    "POSTGRES_PORT": (5432, "15432", 15432, ["0", "65536", "-1", "x", "5432.0"]),
    "DATABASE_URL": ("", "postgresql://u@h/d", "postgresql://u@h/d", DATABASE_URLS_REFUSED),
    "KAFKA_BOOTSTRAP_SERVERS": (
        "localhost:9092",
        "a:1,b:2",
        "a:1,b:2",
        ["localhost", "a:b", "a:1,", ",a:1", "a:1, b:2", "a:0", "a:1,b:65536"],
    ),
    "KAFKA_TOPIC": ("price-events", "t.1_x-y", "t.1_x-y", ["a topic", "a/b", "x" * 250, "..", "t\u00e4st"]),
    "KAFKA_DLQ_TOPIC": ("price-events-dlq", "dlq", "dlq", ["a topic"]),
    "KAFKA_GROUP": ("moving-average-calc", "g", "g", ["a group"]),
    "KAFKA_SECURITY_PROTOCOL": ("PLAINTEXT", "ssl", "SSL", ["TLS", "PLAIN"]),
    "KAFKA_SASL_MECHANISM": ("SCRAM-SHA-512", "plain", "PLAIN", ["GSSAPI"]),
    "KAFKA_SASL_USERNAME": ("", "client", "client", []),
    "KAFKA_SASL_PASSWORD": ("", "secret", "secret", []),
    "KAFKA_SSL_CAFILE": ("", CA_FILE, CA_FILE, ["no-such-file.pem", str(SERVICE), "x" * 300, __file__]),
    "API_HOST": ("127.0.0.1", "0.0.0.0", "0.0.0.0", ["a b"]),
    "API_PORT": (8000, "8080", 8080, ["0", "65536", "http"]),
    "METRICS_PORT": (0, "9101", 9101, ["-1", "65536", "x"]),
    "PRICE_MAX_AGE_SECONDS": (300.0, "0", 0.0, ["-1", "soon", "nan", "inf", "1e9"]),
    "PROVIDER_TIMEOUT_SECONDS": (10.0, "0.5", 0.5, ["0", "-1", "nan", "301"]),
    "PROVIDER_MAX_CONCURRENCY": (4, "64", 64, ["0", "65", "4.5", "many"]),
    "MA_WINDOW": (5, "20", 20, ["0", "1001", "five"]),
    "REPLAY_FILE": ("", __file__, __file__, ["no-such-file.csv", str(SERVICE), "x" * 300]),
    "LOG_LEVEL": ("INFO", "debug", "DEBUG", ["LOUD", "10"]),
}
FIELDS = {each.metadata["env"]: each.name for each in fields(Settings)}
NO_FILE = "does-not-exist.env"


def load(**environment: str) -> Settings:
    return settings.load(environment, NO_FILE)


def test_every_variable_is_in_the_table_above():
    assert set(FIELDS) == set(VARIABLES)


@pytest.mark.parametrize("name", VARIABLES)
def test_without_the_variable_or_with_an_empty_one_it_is_the_default(name):
    default = VARIABLES[name][0]
    for given in (load(), load(**{name: ""})):
        assert getattr(given, FIELDS[name]) == default
        assert type(getattr(given, FIELDS[name])) is type(default)


@pytest.mark.parametrize("name", VARIABLES)
def test_a_good_value_is_taken(name):
    _, text, value, _ = VARIABLES[name]
    got = getattr(load(**{name: text}), FIELDS[name])
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, row in VARIABLES.items() for text in row[3]])
def test_a_bad_value_is_refused_with_the_variable_s_name_and_what_it_must_be(name, text):
    with pytest.raises(SettingsError) as error:
        load(**{name: text})
    message = str(error.value)
    assert message.startswith(f"{name} is ")
    assert "; it must be " in message
    assert "\n" not in message


def test_a_bad_secret_is_not_repeated():
    with pytest.raises(SettingsError) as error:
        load(DATABASE_URL="mysql://user:geheim@host/d")
    assert "geheim" not in str(error.value)
    assert "DATABASE_URL is what was given" in str(error.value)


@pytest.mark.parametrize("url", ["postgresql://u:geh%zzeim@h/d", "postgresql://u:geheim/2@h/d"])
def test_a_password_that_makes_the_url_unreadable_is_not_repeated(url):
    with pytest.raises(SettingsError) as error:
        load(DATABASE_URL=url)
    assert "geh" not in str(error.value)


def test_a_file_of_settings_that_is_no_text_is_told(tmp_path):
    file = tmp_path / ".env"
    file.write_bytes(b"MA_WINDOW=\xff\n")
    with pytest.raises(SettingsError, match=r"\.env cannot be read"):
        settings.load({}, file)


def test_secrets_are_not_in_the_text_of_the_settings():
    given = load(
        POSTGRES_PASSWORD="geheim-1", DATABASE_URL="postgresql://u:geheim-2@h/d", KAFKA_SASL_PASSWORD="geheim-3"
    )
    assert "geheim" not in repr(given)
    assert "geheim" not in str(given)


def test_unknown_variables_are_not_ours():
    assert load(POSTGRES_COLOUR="red", PATH="/bin") == Settings()


def test_settings_do_not_change():
    with pytest.raises(AttributeError):
        load().api_port = 1  # type: ignore[misc]


def test_a_program_that_is_started_with_the_environment_of_settings_has_the_same():
    given = load(**{name: row[1] for name, row in VARIABLES.items()})
    assert settings.load(given.environment(), NO_FILE) == given


# --- the database's address ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "password", "host", "database"),
    [
        ("postgres", "", "127.0.0.1", "marketdata"),
        ("a user", "p@ss:w/rd%#?&= ", "db.example", "market data/2"),
        ("ü", "ß€", "::1", "naïve"),
    ],
)
def test_the_parts_of_the_database_s_address_survive_whatever_they_hold(user, password, host, database):
    given = load(POSTGRES_USER=user, POSTGRES_PASSWORD=password, POSTGRES_HOST=host, POSTGRES_DB=database)
    parsed = psycopg.conninfo.conninfo_to_dict(given.database_url)
    assert (parsed["user"], parsed.get("password", ""), parsed["host"]) == (user, password, host)
    assert (parsed["dbname"], parsed["port"]) == (database, "5432")


@pytest.mark.parametrize("given", ["postgresql://u:p@h:1/d", "postgres://u:p@h:1/d", "postgresql+psycopg://u:p@h:1/d"])
def test_database_url_wins_over_the_parts(given):
    url = load(DATABASE_URL=given, POSTGRES_HOST="other", POSTGRES_PASSWORD="other").database_url
    parsed = psycopg.conninfo.conninfo_to_dict(url)
    assert parsed == {"user": "u", "password": "p", "host": "h", "port": "1", "dbname": "d"}


# --- what belongs together -------------------------------------------------------------------------------------------


def test_dead_letters_must_not_go_where_they_came_from():
    with pytest.raises(SettingsError, match="KAFKA_DLQ_TOPIC is 'price-events'"):
        load(KAFKA_DLQ_TOPIC="price-events")


def test_sasl_needs_a_user():
    with pytest.raises(
        SettingsError, match="KAFKA_SASL_USERNAME is empty; KAFKA_SECURITY_PROTOCOL=SASL_SSL needs a user"
    ):
        load(KAFKA_SECURITY_PROTOCOL="SASL_SSL")
    assert load(KAFKA_SECURITY_PROTOCOL="SASL_SSL", KAFKA_SASL_USERNAME="client").kafka_security_protocol == "SASL_SSL"


# --- where values come from ------------------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file_and_the_file_over_the_default(tmp_path):
    file = tmp_path / ".env"
    file.write_text("# a comment\nMA_WINDOW=7\nexport API_PORT='8001'\nPOSTGRES_USER=reader\nLOG_LEVEL=\nNOT_OURS\n")
    given = settings.load({"MA_WINDOW": "9"}, file)
    assert (given.ma_window, given.api_port, given.postgres_user, given.log_level) == (9, 8001, "reader", "INFO")


def test_a_bad_value_in_the_file_is_refused_too(tmp_path):
    file = tmp_path / ".env"
    file.write_text("MA_WINDOW=all\n")
    with pytest.raises(SettingsError, match="MA_WINDOW is 'all'"):
        settings.load({}, file)


def test_the_seed_s_file_of_three_lines_is_enough(tmp_path, monkeypatch):
    (tmp_path / ".env").write_text("POSTGRES_USER=me\nPOSTGRES_PASSWORD=secret\nPOSTGRES_DB=marketdata\n")
    monkeypatch.chdir(tmp_path)
    assert settings.load().database_url == "postgresql://me:secret@127.0.0.1:5432/marketdata"


def test_importing_the_package_reads_no_setting(tmp_path):
    """A bad variable must not keep `import app.main` or --help from working."""
    code = "import app.settings, app.database, app.service, app.poller"
    environment = os.environ | {"MA_WINDOW": "all", "PYTHONPATH": str(SERVICE)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
