"""Every setting of the service: environment name, default, check. Read when a program starts, never at import.

A value comes from the environment, else from the file `.env` of the working directory, else it is the default. A bad one
is a SettingsError that names the variable, and programs end with exit code 2.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from dotenv import dotenv_values
from psycopg.conninfo import conninfo_to_dict

from app.errors import SettingsError

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
SCHEMES = ("postgresql://", "postgres://")

Parse = Callable[[str], Any]


def _text(pattern: str, what: str) -> Parse:
    """A parser of texts that match `pattern` as a whole."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(what)
        return text

    return parse


def _number(kind: type, low: float, high: float) -> Parse:
    """A parser of numbers from `low` to `high`."""
    what = f"{'a whole number' if kind is int else 'a number'} from {low} to {high}"

    def parse(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(what) from None
        if not low <= value <= high:
            raise ValueError(what)
        return value

    return parse


def _one_of(*names: str) -> Parse:
    """A parser of one of some words, in any case."""

    def parse(text: str) -> str:
        if text.upper() not in names:
            raise ValueError("one of " + ", ".join(names))
        return text.upper()

    return parse


def _database_url(text: str) -> str:
    plain = text.replace("postgresql+psycopg://", "postgresql://", 1)
    hosts, ports = _place_of(plain)
    if not plain.startswith(SCHEMES) or not re.fullmatch(r"[0-9,]*", ports) or not all(map(_is_name, hosts.split(","))):
        raise ValueError("a URL such as postgresql://user:password@host:5432/database")
    return plain


def _place_of(database_url: str) -> tuple[str, str]:
    """Hosts and ports, comma-separated. What libpq cannot read has none: its own words repeat parts of the password."""
    try:
        parts = conninfo_to_dict(database_url)
    except psycopg.ProgrammingError:
        return "", "none: this is no URL of a database"
    return str(parts.get("host", "")), str(parts.get("port", ""))


def _host(text: str) -> str:
    if not re.fullmatch(r"[^\s/@]+", text) or not _is_name(text):
        raise ValueError("a host name or address")
    return text


def _is_name(host: str) -> bool:
    """Python's resolver fails with a UnicodeError at an empty part of a name, and at one of 64 characters."""
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


def _servers(text: str) -> str:
    found = re.fullmatch(r"[^\s,]+:[0-9]{1,5}(,[^\s,]+:[0-9]{1,5})*", text)
    pairs = [each.rpartition(":") for each in text.split(",")]
    if not found or not all(_is_name(host) and 0 < int(port) < 65_536 for host, _, port in pairs):
        raise ValueError("host:port, comma-separated")
    return text


def _file(text: str) -> str:
    if not (os.path.isfile(text) and os.access(text, os.R_OK)):
        raise ValueError("the path of a file that can be read")
    return text


def _certificates(text: str) -> str:
    try:
        ssl.create_default_context(cafile=_file(text))
    except (OSError, ValueError):  # of OSError is ssl.SSLError
        raise ValueError("the path of a PEM file of certificates") from None
    return text


def _setting(default: Any, parse: Parse, env: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"parse": parse, "env": env, "secret": secret})


_anything = _text(r"(?s).*", "text")
_name = _text(r"(?!\.{1,2}$)[A-Za-z0-9_.-]{1,249}", "1 to 249 letters, digits, dots, dashes and underscores")
_port = _number(int, 1, 65_535)


@dataclass(frozen=True)
class Settings:
    """The settings of one program. Seconds where a name says so; an empty `given_database_url` stands for the POSTGRES_ parts."""

    postgres_user: str = _setting("postgres", _text(r".+", "a user name"), "POSTGRES_USER")
    postgres_password: str = _setting("", _anything, "POSTGRES_PASSWORD", secret=True)
    postgres_db: str = _setting("marketdata", _text(r".+", "the name of a database"), "POSTGRES_DB")
    postgres_host: str = _setting("127.0.0.1", _host, "POSTGRES_HOST")
    postgres_port: int = _setting(5432, _port, "POSTGRES_PORT")
    given_database_url: str = _setting("", _database_url, "DATABASE_URL", secret=True)
    kafka_bootstrap_servers: str = _setting("localhost:9092", _servers, "KAFKA_BOOTSTRAP_SERVERS")
    kafka_topic: str = _setting("price-events", _name, "KAFKA_TOPIC")
    kafka_dlq_topic: str = _setting("price-events-dlq", _name, "KAFKA_DLQ_TOPIC")
    kafka_group: str = _setting("moving-average-calc", _name, "KAFKA_GROUP")
    kafka_security_protocol: str = _setting("PLAINTEXT", _one_of(*PROTOCOLS), "KAFKA_SECURITY_PROTOCOL")
    kafka_sasl_mechanism: str = _setting("SCRAM-SHA-512", _one_of(*MECHANISMS), "KAFKA_SASL_MECHANISM")
    kafka_sasl_username: str = _setting("", _anything, "KAFKA_SASL_USERNAME")
    kafka_sasl_password: str = _setting("", _anything, "KAFKA_SASL_PASSWORD", secret=True)
    kafka_ssl_cafile: str = _setting("", _certificates, "KAFKA_SSL_CAFILE")
    api_host: str = _setting("127.0.0.1", _host, "API_HOST")
    api_port: int = _setting(8000, _port, "API_PORT")
    metrics_port: int = _setting(0, _number(int, 0, 65_535), "METRICS_PORT")
    price_max_age_seconds: float = _setting(300.0, _number(float, 0, 31_536_000), "PRICE_MAX_AGE_SECONDS")
    provider_timeout_seconds: float = _setting(10.0, _number(float, 0.1, 300), "PROVIDER_TIMEOUT_SECONDS")
    provider_max_concurrency: int = _setting(4, _number(int, 1, 64), "PROVIDER_MAX_CONCURRENCY")
    ma_window: int = _setting(5, _number(int, 1, 1_000), "MA_WINDOW")
    replay_file: str = _setting("", _file, "REPLAY_FILE")
    log_level: str = _setting("INFO", _one_of(*LOG_LEVELS), "LOG_LEVEL")

    def __post_init__(self) -> None:
        if self.kafka_topic == self.kafka_dlq_topic:
            raise SettingsError(
                f"KAFKA_DLQ_TOPIC is {self.kafka_dlq_topic!r}, as KAFKA_TOPIC; it must be another topic"
            )
        if self.kafka_security_protocol.startswith("SASL") and not self.kafka_sasl_username:
            raise SettingsError(
                f"KAFKA_SASL_USERNAME is empty; KAFKA_SECURITY_PROTOCOL={self.kafka_security_protocol} needs a user"
            )

    @property
    def database_url(self) -> str:
        """DATABASE_URL where it is given, else built from the POSTGRES_ parts; it holds the password."""
        if self.given_database_url:
            return self.given_database_url
        user = quote(self.postgres_user, safe="")
        password = f":{quote(self.postgres_password, safe='')}" if self.postgres_password else ""
        host = f"[{self.postgres_host}]" if ":" in self.postgres_host else self.postgres_host
        return f"postgresql://{user}{password}@{host}:{self.postgres_port}/{quote(self.postgres_db, safe='')}"

    def environment(self) -> dict[str, str]:
        """These settings as environment variables, for a program that is started with them."""
        return {each.metadata["env"]: str(getattr(self, each.name)) for each in fields(self)}


def load(environ: Mapping[str, str] | None = None, env_file: Path | str = ".env") -> Settings:
    """The settings of the environment and of the file `env_file`, if there is one.

    Raises
    ------
    SettingsError
        If a value is not what its variable must hold, or the file cannot be read.
    """
    given = read_file(env_file) | dict(os.environ if environ is None else environ)
    return Settings(**{each.name: _value(each, given.get(each.metadata["env"], "")) for each in fields(Settings)})


def read_file(env_file: Path | str) -> dict[str, str]:
    """The variables of the file, none where there is no file. Raises SettingsError where it cannot be read."""
    try:
        return {name: value for name, value in dotenv_values(env_file).items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{env_file} cannot be read: {error}") from None


def _value(setting: Field[Any], text: str) -> Any:
    """An empty variable is one that is not set, as in compose files."""
    assert setting.default is not MISSING
    if not text:
        return setting.default
    try:
        return setting.metadata["parse"](text)
    except ValueError as error:
        shown = "what was given" if setting.metadata["secret"] else repr(text)
        raise SettingsError(f"{setting.metadata['env']} is {shown}; it must be {error}") from None
