"""System packages through apt, dnf, yum or brew, where this user may install any."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable

Say = Callable[[str], None]

_JAVA_RPMS = ("java-17-amazon-corretto-headless", "java-17-openjdk-headless", "java-21-openjdk-headless")
# For each package manager and command: the packages that bring it, the first that can be installed is taken.
PACKAGES: dict[str, dict[str, tuple[str, ...]]] = {
    "apt-get": {"java": ("default-jre-headless",), "mvn": ("maven",)},
    "dnf": {"java": _JAVA_RPMS, "mvn": ("maven",)},
    "yum": {"java": _JAVA_RPMS, "mvn": ("maven",)},
    "brew": {"java": ("openjdk@17",), "mvn": ("maven",)},
}
NAMES = {"java": "Java", "mvn": "Maven"}


def manager() -> str | None:
    """The package manager of this machine, None if it has none that is known here."""
    return next((name for name in PACKAGES if shutil.which(name)), None)


def privilege(tool: str) -> list[str] | None:
    """What a command line of `tool` must start with for this user to install packages; None if there is no right to."""
    is_root = os.geteuid() == 0
    if tool == "brew":
        return None if is_root else []  # brew refuses root
    if is_root:
        return []
    sudo = ["sudo", "-n"]
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0:
        return sudo
    return None


def install(command: str, say: Say) -> bool:
    """Try to install what brings `command` (`java` or `mvn`); whether a package manager reported success.

    Its output goes to stderr.
    """
    tool = manager()
    prefix = privilege(tool) if tool else None
    if tool is None or prefix is None:
        return False
    if tool == "apt-get":
        prefix = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive"]
        _run([*prefix, tool, "-qq", "update"])
    for package in PACKAGES[tool][command]:
        say(f"{NAMES[command]} is missing: installing {package} with {tool}")
        if _run([*prefix, *install_words(tool), package]):
            return True
    return False


def install_words(tool: str) -> list[str]:
    """The words that install a package without a question."""
    return {
        "apt-get": [tool, "-qq", "install", "-y", "--no-install-recommends"],
        "brew": [tool, "install", "--quiet"],
    }.get(tool, [tool, "install", "-y", "-q"])


def hint(commands: list[str]) -> str:
    """What the user can do where `install` could not."""
    tool = manager()
    if tool is None:
        return (
            "install "
            + " and ".join(NAMES[name] for name in commands)
            + " (Java 17; no apt, dnf, yum or brew found here)"
        )
    packages = " ".join(PACKAGES[tool][name][0] for name in commands)
    return f"install with: {'' if tool == 'brew' else 'sudo '}{tool} install {packages}"


def _run(command: list[str]) -> bool:
    return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, check=False).returncode == 0
