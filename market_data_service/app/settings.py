"""Every setting of the service: environment name, default, check. Read when a program starts, never at import.

A value comes from the environment, else from the file `.env` of the working directory, else it is the default. A bad one
is a SettingsError that names the variable, and programs end with exit code 2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dotenv import dotenv_values

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
    if not plain.startswith(SCHEMES):
        raise ValueError("a URL that begins with postgresql://")
    return plain


def _setting(default: Any, parse: Parse, env: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"parse": parse, "env": env, "secret": secret})


_anything = _text(r"(?s).*", "text")
_name = _text(r"[\w.-]{1,249}", "1 to 249 letters, digits, dots, dashes and underscores")
_host = _text(r"[^\s/@]+", "a host name or address")
_servers = _text(r"[^\s,]+:\d{1,5}(,[^\s,]+:\d{1,5})*", "host:port, comma-separated")
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
    kafka_ssl_cafile: str = _setting("", _anything, "KAFKA_SSL_CAFILE")
    api_host: str = _setting("127.0.0.1", _host, "API_HOST")
    api_port: int = _setting(8000, _port, "API_PORT")
    metrics_port: int = _setting(0, _number(int, 0, 65_535), "METRICS_PORT")
    price_max_age_seconds: float = _setting(300.0, _number(float, 0, 31_536_000), "PRICE_MAX_AGE_SECONDS")
    provider_timeout_seconds: float = _setting(10.0, _number(float, 0.1, 300), "PROVIDER_TIMEOUT_SECONDS")
    provider_max_concurrency: int = _setting(4, _number(int, 1, 64), "PROVIDER_MAX_CONCURRENCY")
    ma_window: int = _setting(5, _number(int, 1, 1_000), "MA_WINDOW")
    replay_file: str = _setting("", _anything, "REPLAY_FILE")
    log_level: str = _setting("INFO", _one_of(*LOG_LEVELS), "LOG_LEVEL")

    def __post_init__(self) -> None:
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
        If a value is not what its variable must hold.
    """
    kept = {name: value for name, value in dotenv_values(env_file).items() if value is not None}
    given = kept | dict(os.environ if environ is None else environ)
    return Settings(**{each.name: _value(each, given.get(each.metadata["env"], "")) for each in fields(Settings)})


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
