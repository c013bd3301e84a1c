"""--doctor: every check finds what is wrong and says what to do, nothing makes it fail itself, and it is quick."""

import errno
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import config
from sor import doctor, security, stream
from sor.doctor import FAIL, OK, WARN, Finding
from sor.errors import StreamError
from sor.stream import Survey

ROOT = Path(__file__).resolve().parents[1]


def settings(*words, **environ):
    return config.settings("backtest", words, "", environ)


def found(check, *words, **environ):
    """The check's findings as (status, found, todo)."""
    return [tuple(finding[1:]) for finding in check(settings(*words, **environ))]


@pytest.fixture
def listener():
    """The port of a socket of this process that listens."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def script(folder, text):
    path = folder / "bin" / "java"
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_a_finding_is_a_line_that_says_what_to_do():
    assert str(Finding("java", OK, "17")) == "ok    java       17"
    assert str(Finding("port 2181", WARN, "held by pid 1", "stop it")) == "warn  port 2181  held by pid 1: stop it"


def test_this_python_and_its_packages_are_right():
    assert found(doctor.python)[0][0] == OK
    assert FAIL not in {status for status, *_ in found(doctor.packages)}


def test_another_python_is_a_failure(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    assert found(doctor.python)[0][0] == FAIL


def test_missing_packages_and_other_versions_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    text = 'no-such-package>=1  # why\nnumpy<1\ntomli>=2; python_version < "3"\n\n# tests\nno-test<2\n'
    (tmp_path / "requirements.txt").write_text(text)
    (missing, wrong, of_tests) = found(doctor.packages)
    assert missing[:2] == (FAIL, "missing: no-such-package")
    assert "-m pip install -r requirements.txt" in missing[2]
    assert wrong[0] == WARN
    assert wrong[1].endswith("must be <1")
    assert of_tests[:2] == (WARN, "for the tests: no-test")


@pytest.mark.parametrize(
    ("says", "status", "version"),
    [
        ('openjdk version "17.0.2" 2022-01-18', OK, 17),
        ('openjdk version "11.0.1"', OK, 11),
        ('java version "1.8.0_361"', WARN, 8),
    ],
)
def test_java_is_11_or_later(tmp_path, monkeypatch, says, status, version):
    script(tmp_path, f"echo '{says}' >&2")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    ((its_status, text, _),) = found(doctor.java)
    assert (its_status, text) == (status, f"{version} ({tmp_path}/bin/java)")


def test_a_java_home_that_leads_nowhere_is_told_and_another_java_is_found(tmp_path, monkeypatch):
    script(tmp_path, "echo 'openjdk version \"21\"' >&2")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("JAVA_HOME", "/no/where")
    wrong, right = found(doctor.java)
    assert wrong == (WARN, "JAVA_HOME is '/no/where', which holds no bin/java that runs", "correct it, or unset it")
    assert right[0] == OK
    monkeypatch.setenv("PATH", "")
    assert found(doctor.java)[1][:2] == (WARN, "not found")


def test_little_memory_is_a_warning(monkeypatch):
    monkeypatch.setattr(doctor, "_cgroup_limit_mb", lambda: None)
    assert found(doctor.memory)[0][0] in (OK, WARN)
    monkeypatch.setattr(doctor, "_cgroup_limit_mb", lambda: 512.0)
    ((status, text, todo),) = found(doctor.memory)
    assert status == WARN
    assert "this cgroup may have 512" in text
    assert "700 MiB" in todo


@pytest.mark.parametrize(
    ("cgroup", "files", "limit_mb"),
    [
        ("0::/a/b\n", {"/sys/fs/cgroup/a/b/memory.max": "max", "/sys/fs/cgroup/a/memory.max": "943718400"}, 900),
        ("0::/\n", {"/sys/fs/cgroup/memory.max": "1073741824"}, 1024),
        ("4:memory:/x\n3:cpu:/x\n", {"/sys/fs/cgroup/memory/x/memory.limit_in_bytes": "524288000"}, 500),
        ("4:memory:/\n", {"/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/\n", {}, None),
        ("", {}, None),
    ],
)
def test_the_least_limit_of_all_cgroups_above_counts(monkeypatch, cgroup, files, limit_mb):
    there = {"/proc/self/cgroup": cgroup, **files}
    monkeypatch.setattr(doctor, "_lines", lambda path: there.get(str(path), "").splitlines())
    assert doctor._cgroup_limit_mb() == limit_mb


def test_a_full_disk_is_a_failure_and_a_nearly_full_one_a_warning(monkeypatch, tmp_path):
    for free_mb, statuses in ((5000, [OK, OK]), (500, [OK, WARN]), (50, [FAIL, FAIL])):
        usage = type("Usage", (), {"free": free_mb * doctor.MiB})
        monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path, usage=usage: usage)
        assert [status for status, *_ in found(doctor.disk, "--out", str(tmp_path / "not" / "there"))] == statuses


def test_the_output_folder_must_be_one_that_can_be_written(tmp_path):
    assert found(doctor.output, "--out", str(tmp_path / "not" / "there")) == [(OK, f"{tmp_path} can be written", "")]
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    ((status, text, _),) = found(doctor.output, "--out", str(tmp_path / "file"))
    assert (status, text) == (FAIL, f"{tmp_path / 'file'}: {os.strerror(errno.ENOTDIR)}")


def test_time_zones_and_a_clock_that_is_behind(monkeypatch):
    assert found(doctor.clock)[0][0] == OK
    assert found(doctor.clock, "--time-zone", "Moon/Base")[0][:2] == (FAIL, "no time zone 'Moon/Base'")
    monkeypatch.setattr(doctor.time, "time", lambda: 0.0)
    assert found(doctor.clock)[0][0] == WARN


def test_kernels_are_compiled_or_will_be(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert "to be compiled" in found(doctor.kernels)[0][1]
    (tmp_path / "sor").mkdir()
    (tmp_path / "sor" / "replay.nbi").write_text("")
    assert found(doctor.kernels) == [(OK, "compiled", "")]


def test_market_data_that_cannot_be_read_are_a_failure_if_they_were_given(tmp_path, monkeypatch):
    assert found(doctor.data, "--csv", str(ROOT / "l1_day.csv"))[0][0] == OK
    ((status, text, _),) = found(doctor.data, "--csv", str(tmp_path / "gone.csv"))
    assert status == FAIL
    assert "gone.csv: cannot be read" in text
    (tmp_path / "header.csv").write_text((ROOT / "l1_day.csv").read_text()[:200].partition("\n")[0])
    assert found(doctor.data, "--csv", str(tmp_path / "header.csv"))[0][:2] == (
        FAIL,
        f"{tmp_path / 'header.csv'}: holds no row",
    )
    monkeypatch.chdir(tmp_path)
    assert found(doctor.data)[0][0] == WARN


def test_a_port_is_free_or_its_holder_is_named(monkeypatch, listener):
    monkeypatch.setattr(doctor, "PORTS", {listener: "kafka"})
    monkeypatch.setattr(doctor, "_holder", lambda port, role: ("pid 7 (nginx)", False))
    ((status, text, todo),) = found(doctor.ports)
    assert (status, text) == (WARN, "held by pid 7 (nginx)")
    assert "KAFKA_LISTEN" in todo


def test_the_holder_is_named_without_its_flags(listener):
    holder, is_right = doctor._holder(listener, "kafka")
    name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
    assert holder == f"pid {os.getpid()} ({name})"
    assert isinstance(is_right, bool)
    assert doctor._holder(1, "kafka") == ("a program of another user", True)


def test_a_broker_that_is_not_there_is_a_failure_and_says_how_to_start_one():
    ((status, text, todo),) = found(doctor.broker, "--kafka-bootstrap-servers", "127.0.0.1:9,[::1]:9")
    assert (status, text) == (FAIL, "nothing listens at 127.0.0.1:9,[::1]:9")
    assert todo.startswith("make broker-start")


def test_what_listens_and_is_no_broker_is_a_failure(listener, monkeypatch):
    monkeypatch.setattr(security, "CONNECT_S", 0.3)
    monkeypatch.setattr(stream, "SURVEY_MS", 300)
    ((status, *_),) = found(doctor.broker, "--kafka-bootstrap-servers", f"127.0.0.1:{listener}")
    assert status == FAIL


@pytest.mark.parametrize(
    ("seen", "status", "tells"),
    [
        (Survey(), OK, "is not there yet"),
        (
            Survey(1, 100, 2, 1, 3, 40),
            OK,
            "2 whole and 1 broken or unfinished runs, 3 of them not reported by group g, 100",
        ),
        (Survey(1, seen_all=False), OK, "(more than could be looked at)"),
        (Survey(3), WARN, "3 partitions"),
    ],
)
def test_the_topic_is_told(seen, status, tells):
    finding = doctor._topic("t", "g", seen)
    assert finding.status == status
    assert tells in finding.found


def raises(settings):
    raise StreamError("two\nlines")


def hangs(settings):
    yield Finding("hangs", OK, "half")
    time.sleep(60)


def test_a_check_that_fails_or_hangs_is_a_warning_and_the_others_go_on(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "CHECKS", (raises, hangs, doctor.python))
    monkeypatch.setattr(doctor, "LONGEST_S", 0.2)
    assert doctor.main(settings()) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["warn", "raises"],
        ["ok", "hangs"],
        ["warn", "hangs"],
        ["ok", "python"],
    ]
    assert "(StreamError: two)" in out


NOTHING = {"PATH": "", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}


def test_with_nothing_there_it_ends_in_time_with_a_line_a_check_and_no_secret(tmp_path):
    secure = {
        "KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT",
        "KAFKA_SASL_USERNAME": "u",
        "KAFKA_SASL_PASSWORD": "hush-hush",
    }
    start_s = time.monotonic()
    command = [sys.executable, ROOT / "backtest.py", "--doctor", "--log-json", "--out", "results"]
    done = subprocess.run(
        command, cwd=tmp_path, env=NOTHING | secure, capture_output=True, text=True, check=False, timeout=60
    )
    assert time.monotonic() - start_s < 15
    assert (done.returncode, done.stderr) == (1, "")
    assert "hush-hush" not in done.stdout
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["name"] for each in found} >= {check.__name__ for check in doctor.CHECKS} - {"ports"}
    assert [each["name"] for each in found if each["status"] == FAIL] == ["broker"]
    assert list(tmp_path.iterdir()) == []


def test_without_any_package_it_says_which_are_missing(tmp_path):
    command = [sys.executable, "-S", "-E", ROOT / "backtest.py", "--doctor"]  # no site-packages
    done = subprocess.run(command, cwd=tmp_path, env=NOTHING, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    assert "fail  packages" in done.stdout
