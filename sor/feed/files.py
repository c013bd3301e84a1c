"""The bytes of a file: which file it is, what format, decompressed; and one FeedError for whatever cannot be read."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
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
    with no_os_error(path), open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return FileIdentity(os.fsencode(Path(path).name).decode("utf-8", "replace"), digest.hexdigest())


def is_parquet(path: str | Path) -> bool:
    """By its first bytes, or by its name: what is called Parquet and is none is not tried as CSV."""
    with no_os_error(path), open(path, "rb") as file:
        return file.read(len(PARQUET_MAGIC)) == PARQUET_MAGIC or _called_parquet(path)


def _called_parquet(path: str | Path) -> bool:
    return Path(path).suffix.lower() == ".parquet"


@contextmanager
def no_os_error(path: str | Path) -> Iterator[None]:
    """Turns whatever reading `path` can raise into a FeedError that names it."""
    try:
        yield
    except _CANNOT_READ as error:
        found = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        wanted = "a Parquet file" if _called_parquet(path) else "a CSV file, plain or .gz, or a Parquet file"
        raise FeedError(f"{path}: cannot be read to its end: {found}; it must be {wanted}") from None


@contextmanager
def opened(path: str | Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed if they are gzip's, whatever the file is called; FeedError if it cannot be read."""
    with no_os_error(path), open(path, "rb") as file:
        if file.peek(len(_GZIP_MAGIC))[: len(_GZIP_MAGIC)] == _GZIP_MAGIC:
            with gzip.open(file) as unpacked:
                yield unpacked
        else:
            yield file


@contextmanager
def opened_text(path: str | Path, encoding: str = "utf-8-sig") -> Iterator[TextIO]:
    """The same as text, U+FFFD for bytes that are none."""
    with opened(path) as file, io.TextIOWrapper(file, encoding, errors="replace") as text:
        yield text
