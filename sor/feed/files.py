"""The bytes of a file: which file it is, what format, decompressed; and one FeedError for whatever cannot be read."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import stat
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

from sor.errors import FeedError
from sor.feed.lean_pandas import pd

PARQUET_MAGIC = b"PAR1"
_GZIP_MAGIC = b"\x1f\x8b"
_CANNOT_READ = (OSError, EOFError, zlib.error, pd.errors.ParserError)


@dataclass(frozen=True)
class FileIdentity:
    """Which file this is, whatever it is called: name and SHA-256 of its bytes."""

    name: str
    sha256: str


def identify(path: str | Path) -> FileIdentity:
    """Name and SHA-256 of a file; FeedError if it cannot be read."""
    digest = hashlib.sha256()
    with opened_as_is(path) as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    name = os.fsencode(Path(path).name).decode("utf-8", "replace")
    return FileIdentity(_printable(name), digest.hexdigest())


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "\ufffd" for each in text)


def is_parquet(path: str | Path) -> bool:
    """By its first bytes, or by its name: what is called Parquet and is none is not tried as CSV."""
    with opened_as_is(path) as file:
        return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC or _called_parquet(path)


def _called_parquet(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".parquet"


@contextmanager
def no_os_error(path: str | Path) -> Iterator[None]:
    """Turns whatever reading `path` can raise into a FeedError that names it."""
    try:
        yield
    except _CANNOT_READ as error:
        found = _printable(getattr(error, "strerror", None) or str(error).partition("\n")[0])
        wanted = "a Parquet file" if _called_parquet(path) else "a CSV file, plain or .gz, or a Parquet file"
        raise FeedError(f"{path}: cannot be read to its end: {found}; it must be {wanted}") from None


@contextmanager
def opened_as_is(path: str | Path) -> Iterator[BinaryIO]:
    """The bytes of a file; FeedError if it cannot be read, or is a pipe or device: these may never end, and are read once only."""
    with no_os_error(path):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError("it is a pipe, socket or device")
        with open(path, "rb") as file:  # says it of a directory
            yield file


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """The bytes of a text, decompressed if they are gzip's, whatever the file is called, without a byte order mark; FeedError if
    it cannot be read."""
    with opened_as_is(path) as file:
        packed = file.peek(len(_GZIP_MAGIC)).startswith(_GZIP_MAGIC)
        with gzip.open(file) if packed else nullcontext(file) as text:
            if text.peek(len(BOM_UTF8)).startswith(BOM_UTF8):
                text.read(len(BOM_UTF8))
            yield text


@contextmanager
def opened_text(path: str | Path, encoding: str = "utf-8") -> Iterator[TextIO]:
    """The same as text, U+FFFD for bytes that are none."""
    with opened(path) as file, io.TextIOWrapper(file, encoding, errors="replace") as text:
        yield text
