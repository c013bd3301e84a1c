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
