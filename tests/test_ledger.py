"""The notes beside a group's offset: what is written can be read, what earlier versions wrote too, and claims tell who lives."""

import os
import subprocess
import sys
from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sor.ledger import Claim, Notes, claim_of_this_process, is_at_work, notes_of

CLAIM = Claim("5f", "host", 12, "345", "2026-01-02T03:04:05Z")


def test_notes_are_read_as_they_were_written():
    notes = Notes(["one", "two,three"], CLAIM)
    assert notes.text() == (
        '{"reported":["one","two,three"],"claim":'
        '{"id":"5f","host":"host","pid":12,"born":"345","since":"2026-01-02T03:04:05Z"}}'
    )
    assert notes_of(notes.text()) == notes
    assert notes_of(Notes().text()) == Notes()


@pytest.mark.parametrize(
    ("text", "reported"), [("", []), ("one", ["one"]), ("one,two", ["one", "two"]), ("{", ["{"]), ("12", ["12"])]
)
def test_comma_separated_ids_of_earlier_versions_are_read(text, reported):
    assert notes_of(text) == Notes(reported)


@given(st.text())
def test_no_text_is_an_error(text):
    assert isinstance(notes_of(text), Notes)


def test_a_claim_says_who_and_since_when():
    assert str(CLAIM) == "host, pid 12, since 2026-01-02T03:04:05Z"
    mine = claim_of_this_process()
    assert (mine.pid, mine.id != claim_of_this_process().id) == (os.getpid(), True)


@dataclass
class Other:
    """Another process, and the claim it would make."""

    process: subprocess.Popen
    claim: Claim


@pytest.fixture
def other():
    code = (
        "import msgspec, sys; from sor.ledger import claim_of_this_process; "
        "print(msgspec.json.encode(claim_of_this_process()).decode(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield Other(process, msgspec.json.decode(process.stdout.readline(), type=Claim))
        process.kill()


def test_a_process_of_this_machine_is_seen_until_it_ends(other):
    assert is_at_work(other.claim)
    assert not is_at_work(msgspec.structs.replace(other.claim, host="elsewhere"))
    assert not is_at_work(msgspec.structs.replace(other.claim, born="1"))  # the pid was used again
    assert not is_at_work(msgspec.structs.replace(other.claim, born=""))
    other.process.kill()
    os.waitid(os.P_PID, other.process.pid, os.WEXITED | os.WNOWAIT)
    assert not is_at_work(other.claim)  # a zombie works no more
    other.process.wait()
    assert not is_at_work(other.claim)


def test_the_claim_of_this_process_itself_is_no_other():
    assert not is_at_work(claim_of_this_process())
