"""Java, and Kafka's jars: from KAFKA_HOME, or fetched once with Maven (broker/pom.xml) into .kafka/libs."""

import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from broker import packages
from broker.errors import BrokerError, NotInstalledError
from broker.packages import Say
from sor.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
POM = Path(__file__).with_name("pom.xml")
LIBS = ROOT / ".kafka" / "libs"
_BREW_JAVA = ("/opt/homebrew/opt/openjdk@17/bin/java", "/usr/local/opt/openjdk@17/bin/java")


def find_java() -> str | None:
    """A Java that runs: JAVA_HOME's, the one on PATH, brew's. (The /usr/bin/java of a bare macOS does not run.)"""
    home = os.environ.get("JAVA_HOME")
    candidates = [f"{home}/bin/java" if home else None, shutil.which("java"), *_BREW_JAVA]
    return next((java for java in candidates if java and _runs(java, "-version")), None)


def prepare(say: Say, libs: Path = LIBS) -> tuple[str, Path]:
    """Make sure of Java and of Kafka's jars, and return (java, folder of jars).

    Missing ones are installed or fetched where that is allowed.

    Raises
    ------
    NotInstalledError
        With what to install, if something is still missing.
    UsageError
        If KAFKA_HOME is not an unpacked Kafka.
    """
    jars = _jars_of_kafka_home() or (libs if is_fetched(libs) else None)
    _say_wrong_java_home(say)
    java = find_java() or _installed("java", find_java, say)
    maven = jars or shutil.which("mvn") or _installed("mvn", lambda: shutil.which("mvn"), say)
    missing = [name for name, found in (("java", java), ("mvn", maven)) if not found]
    if missing:
        names = " and ".join(packages.NAMES[name] for name in missing)
        raise NotInstalledError(f"{names} not found, and could not be installed; {packages.hint(missing)}")
    if jars is None:
        fetch(libs, say)
    return str(java), jars or libs


@functools.cache  # said once
def _say_wrong_java_home(say: Say) -> None:
    home = os.environ.get("JAVA_HOME")
    if home and not os.access(f"{home}/bin/java", os.X_OK):
        say(f"JAVA_HOME is {home!r}, which holds no bin/java that runs: looking elsewhere for a Java")


def is_fetched(libs: Path) -> bool:
    """Whether `libs` holds the jars of today's pom.xml."""
    stamp = _stamp(libs)
    return stamp.exists() and stamp.read_text() == _pom_hash()


def fetch(libs: Path, say: Say) -> None:
    """Fetch Kafka's jars with Maven (which checks their sums) into `libs`; whole or not at all."""
    say("fetching Kafka's jars with Maven (about 50 MB, once)")
    libs.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=libs.parent) as folder:
        fresh = Path(folder) / "libs"
        copy = ["mvn", "-q", "-B", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={fresh}"]
        done = subprocess.run(copy, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line] or [
                "no reason given"
            ]
            raise NotInstalledError(
                f"Maven could not fetch Kafka's jars (or set KAFKA_HOME to an unpacked Kafka): {errors[0]}"
            )
        _stamp(fresh).write_text(_pom_hash())
        shutil.rmtree(libs, ignore_errors=True)
        fresh.rename(libs)


def require_zookeeper(jars: Path) -> None:
    """Raise BrokerError if these jars are of Kafka 4 or later, which has no ZooKeeper mode."""
    if not any(jars.glob("zookeeper-[0-9]*.jar")):
        raise BrokerError(f"mode zookeeper needs Kafka 3, and {jars} holds no zookeeper jar; use mode kraft")


def version(jars: Path) -> str:
    """Kafka's version, from the name of its jar."""
    return next(jars.glob("kafka_2.*.jar")).stem.rsplit("-", 1)[-1]


def _jars_of_kafka_home() -> Path | None:
    home = os.environ.get("KAFKA_HOME")
    if not home:
        return None
    jars = Path(home).expanduser() / "libs"
    if not any(jars.glob("kafka_2.*.jar")):
        raise UsageError(f"KAFKA_HOME is {home!r}, which holds no libs/kafka_2.*.jar; it must be an unpacked Kafka")
    return jars


def _installed(name: str, find: Callable[[], str | None], say: Say) -> str | None:
    return find() if packages.install(name, say) else None


def _runs(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def _stamp(libs: Path) -> Path:
    return libs / "pom.sha256"


def _pom_hash() -> str:
    return hashlib.sha256(POM.read_bytes()).hexdigest()
