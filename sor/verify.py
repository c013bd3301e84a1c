"""Is output.json what the market data and the settings recorded in it give? Reading a report, finding its data, comparing.

    report = verify.read("output.json")
    path = verify.market_data(report, "output.json")
    verify.differences(report, computed)     # ["optimized.total_cash: recorded 1.0, computed 2.0"]

A report may come from anyone: whatever is wrong with it is one VerificationError. `run` is never compared.
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from sor import feed
from sor.errors import VerificationError

MOST_BYTES = 64 << 20
MOST_SHOWN = 20
_SHA256 = re.compile("[0-9a-f]{64}")
_PLAIN_KEY = re.compile(r"[\w.-]{1,60}")
_NOTHING = object()


def read(path: str) -> dict[str, Any]:
    """The report, with `settings` and `data` in it.

    Raises
    ------
    VerificationError
        It cannot be read, is no JSON object, or lacks what says how to compute it.
    """
    report = _parsed(path, _text(path))
    for name in ("settings", "data"):
        if not isinstance(report.get(name) if isinstance(report, dict) else None, dict):
            raise VerificationError(f"{path}: has no section {name!r}; it must be an output.json of backtest.py")
    return report


def _text(path: str) -> str:
    try:
        if Path(path).is_fifo():  # may never end
            raise OSError(errno.EINVAL, "it is a pipe")
        with open(path, "rb") as file:
            found = file.read(MOST_BYTES + 1)
        if len(found) <= MOST_BYTES:
            return found.decode("utf-8")
        wrong = f"has more than {MOST_BYTES >> 20} MiB"
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
    except UnicodeDecodeError:
        wrong = "is not UTF-8 text"
    raise VerificationError(f"{path}: {wrong}; it must be an output.json of backtest.py")


def _parsed(path: str, text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        wrong = "is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise VerificationError(
            f"{path}: is not whole JSON: {wrong}; it must be an output.json of backtest.py"
        ) from None


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands in one object twice")
    return found


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


# --- the data it was made of --------------------------------------------------------------------------------------------


def market_data(report: Mapping[str, Any], path: str, given: str = "") -> str:
    """The file that the report at `path` was made of: `given`, or of its name beside the report or in this folder.

    Raises
    ------
    VerificationError
        None of them has the recorded SHA-256, or the report is of a run that was not whole.
    """
    run = report.get("run")
    if isinstance(run, dict) and run.get("whole") is False:
        raise VerificationError(f"{path}: is of a run that was not whole; the file does not say which rows came")
    name, sha256 = _identity(report["data"], path)
    places = [Path(given)] if given else [Path(path).parent / name, Path(name)]
    found = [place for place in dict.fromkeys(places) if given or place.is_file()]
    if not found:
        raise VerificationError(f"{name} is neither beside {path} nor in this folder; give the market data with --csv")
    now = {str(place): feed.identify(place).sha256 for place in found}
    for place, its_sha256 in now.items():
        if its_sha256 == sha256:
            return place
    place, its_sha256 = next(iter(now.items()))
    raise VerificationError(f"{place}: the data are not those of the report: sha256 is {its_sha256}, recorded {sha256}")


def check_files(report: Mapping[str, Any], path: str, files: Sequence[tuple[str, str]]) -> None:
    """VerificationError unless `files` (name, path) are the files of a report of many days, byte for byte."""
    data = report["data"]
    recorded = dict(_identity(entry, path) for entry in _entries(data, "files", path))
    aside = {str(entry.get("file")) for entry in _entries(data, "set_aside", path)}
    here = dict(files)
    lacking, unknown = sorted({*recorded, *aside} - here.keys()), sorted(here.keys() - {*recorded, *aside})
    for names, wrong in ((lacking, "not found by --days"), (unknown, "found by --days, but not in the report")):
        if names:
            raise VerificationError(f"{path}: {len(names)} files are {wrong}: {_listed(names)}")
    changed = [name for name, sha256 in recorded.items() if feed.identify(here[name]).sha256 != sha256]
    if changed:
        raise VerificationError(
            f"{path}: {len(changed)} files are not those of the report (sha256): {_listed(changed)}"
        )


def check_venues(report: Mapping[str, Any], table_path: str, sha256: str) -> None:
    """VerificationError unless the venue table is that of the report, byte for byte."""
    recorded = report["data"].get("venue_table_sha256")
    if recorded != sha256:
        raise VerificationError(
            f"{table_path}: the venue table is not that of the report: sha256 is {sha256}, recorded {_shown(recorded)}; "
            "give that one with --venues"
        )


def _entries(data: Mapping[str, Any], name: str, path: str) -> list[dict[str, Any]]:
    entries = data.get(name)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise VerificationError(f"{path}: data.{name} must be a list of objects")
    return entries


def _identity(entry: Mapping[str, Any], path: str) -> tuple[str, str]:
    name, sha256 = entry.get("file"), entry.get("sha256")
    if not isinstance(name, str) or not name or "\0" in name or ".." in Path(name).parts or Path(name).is_absolute():
        raise VerificationError(f"{path}: data.file is {_shown(name)}; it must be the name of a file")
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise VerificationError(f"{path}: data.sha256 is {_shown(sha256)}; it must be 64 hexadecimal digits")
    return name, sha256


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


# --- comparing ----------------------------------------------------------------------------------------------------------


def differences(recorded: Mapping[str, Any], computed: Mapping[str, Any]) -> list[str]:
    """Every value that differs, `run` left out: its path, the recorded value, the computed one."""
    return [
        f"{path}: recorded {_shown(ours)}, computed {_shown(theirs)}"
        for path, ours, theirs in _pairs("", {**recorded, "run": 0}, {**computed, "run": 0})
        if type(ours) is not type(theirs) or ours != theirs
    ]


def count(values: Any) -> int:
    """How many values that are no object or list stand in a JSON value."""
    children = values.values() if isinstance(values, dict) else values if isinstance(values, list) else None
    return 1 if children is None else sum(map(count, children))


def _pairs(path: str, recorded: Any, computed: Any) -> Iterator[tuple[str, Any, Any]]:
    """(path, recorded, computed) of everything that is no object or list in both."""
    if isinstance(recorded, dict) and isinstance(computed, dict):
        for key in dict.fromkeys([*computed, *recorded]):
            name = key if _PLAIN_KEY.fullmatch(key) else _shown(key)
            below = f"{path}.{name}" if path else name
            yield from _pairs(below, recorded.get(key, _NOTHING), computed.get(key, _NOTHING))
    elif isinstance(recorded, list) and isinstance(computed, list):
        for i in range(max(len(recorded), len(computed))):
            ours, theirs = (values[i] if i < len(values) else _NOTHING for values in (recorded, computed))
            yield from _pairs(f"{path}[{i}]", ours, theirs)
    else:
        yield path, recorded, computed


def _shown(value: Any) -> str:
    """A value in a few characters of printable ASCII."""
    if value is _NOTHING:
        return "nothing"
    if isinstance(value, (dict, list)):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def other_versions(report: Mapping[str, Any], now: Mapping[str, str]) -> list[str]:
    """What the report was made with and this is not: `numpy 2.3.1 (now 2.4.0)`."""
    run = report.get("run")
    then = run.get("versions") if isinstance(run, dict) else None
    if not isinstance(then, dict):
        return []
    return [f"{name} {_shown(then.get(name))} (now {here})" for name, here in now.items() if then.get(name) != here]


def verdict(found: Sequence[str]) -> str:
    """The differences, at most MOST_SHOWN, then how many there are."""
    more = [f"... {len(found)} differences in all"] if len(found) > MOST_SHOWN else []
    return "\n".join([*found[:MOST_SHOWN], *more])
