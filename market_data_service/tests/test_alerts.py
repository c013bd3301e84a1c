"""Alert rules: promtool accepts them, each has a test of when it fires and when not, and they use metrics that there are."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import prometheus_client
import pytest
import yaml

from app import metrics
from local import SERVICE

ALERTS = SERVICE / "alerts"
RULES = yaml.safe_load((ALERTS / "rules.yml").read_text())["groups"][0]["rules"]
TESTS = yaml.safe_load((ALERTS / "rules_test.yml").read_text())["tests"]
WORDS_OF_PROMQL = {"max", "sum", "by", "time", "absent", "deriv", "increase", "unless", "offset", "or"}
OF_PROMETHEUS = {"up"}


@pytest.fixture(scope="module")
def promtool() -> str:
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which("promtool", path=places)
    if not found:
        pytest.skip("promtool is missing: tests/tools.sh installs it where there is apt-get")
    return found


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ALERTS, capture_output=True, text=True, timeout=60, check=False)


def test_the_rules_fire_when_they_must_and_are_silent_when_they_must(promtool: str) -> None:
    done = run(promtool, "test", "rules", "rules_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_no_fault_in_the_rules(promtool: str) -> None:
    done = run(promtool, "check", "rules", "rules.yml")
    assert (done.returncode, f"{len(RULES)} rules found" in done.stdout) == (0, True), done.stdout + done.stderr


def test_promtool_finds_no_fault_in_what_is_scraped(promtool: str) -> None:
    done = run(promtool, "check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_test_that_expects_the_wrong_thing_fails(promtool: str, tmp_path: Path) -> None:
    wrong = (ALERTS / "rules_test.yml").read_text().replace("by 2 messages", "by 3 messages")
    (tmp_path / "rules_test.yml").write_text(wrong)
    shutil.copy(ALERTS / "rules.yml", tmp_path)
    assert run(promtool, "test", "rules", str(tmp_path / "rules_test.yml")).returncode == 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_rule_is_tested_both_firing_and_silent(rule: dict) -> None:
    expected = [
        case["exp_alerts"] for test in TESTS for case in test["alert_rule_test"] if case["alertname"] == rule["alert"]
    ]
    assert any(expected)
    assert not all(expected)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_rule_reads_metrics_that_the_service_has(rule: dict) -> None:
    exported = {sample.name for metric in prometheus_client.REGISTRY.collect() for sample in metric.samples}
    exported |= {
        f"{metric._name}_total" for metric in vars(metrics).values() if isinstance(metric, prometheus_client.Counter)
    }
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", "", rule["expr"])
    named = set(re.findall(r"[a-z_]{2,}", bare)) - WORDS_OF_PROMQL
    assert named
    assert named <= exported | OF_PROMETHEUS


def test_the_labels_of_failures_are_those_that_are_counted() -> None:
    known = {metrics.OK, "error", *metrics.FETCH_RESULTS.values()}
    rule = next(rule for rule in RULES if rule["alert"] == "ProviderFailing")
    (excepted,) = re.findall(r'result!~"([a-z_|]+)"', rule["expr"])
    assert set(excepted.split("|")) == {"ok", "unknown_symbol"} <= known


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A copy of tests/tools.sh in a folder of its own; `bin` has all that it may call, but no apt-get."""
    for folder in ("bin", ".venv/bin", "tests/newman"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(SERVICE / "tests" / "tools.sh", tmp_path / "tests")
    script(tmp_path / "tests" / "newman" / "install.sh", "exit 0")
    for name in ("sh", "dirname", "mktemp", "rm", "grep", "tail", "cp", "mkdir", "chmod"):
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    return tmp_path


def script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def set_up(tools: Path) -> str:
    """What the script says; it ends well whatever it could not install."""
    done = subprocess.run([tools / "tests" / "tools.sh"], env={"PATH": str(tools / "bin")}, capture_output=True, text=True,
                          timeout=60, check=False)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")
    return done.stderr


def test_the_set_up_unpacks_promtool_and_does_so_once(tools: Path) -> None:
    script(tools / "bin" / "apt-get", ": >prometheus_1.deb")
    unpack = (
        "mkdir -p unpacked/usr/bin; echo '#!/bin/sh' >unpacked/usr/bin/promtool; chmod +x unpacked/usr/bin/promtool"
    )
    script(tools / "bin" / "dpkg", unpack)
    assert set_up(tools) == "setup: promtool in .venv/bin\n"
    assert os.access(tools / ".venv" / "bin" / "promtool", os.X_OK)
    assert set_up(tools) == ""


@pytest.mark.parametrize(
    ("apt_get", "said"),
    [
        (None, "no promtool; install Prometheus to have the tests of alerts/ run"),
        (
            "echo 'E: Unable to locate package' >&2; exit 100",
            "no promtool, apt-get could not download it: E: Unable to locate package",
        ),
    ],
)
def test_where_promtool_cannot_be_had_the_set_up_says_so_and_goes_on(
    tools: Path, apt_get: str | None, said: str
) -> None:
    if apt_get:
        script(tools / "bin" / "apt-get", apt_get)
    assert set_up(tools) == f"setup: {said}\n"
