"""The small tools: whole files or none, JSON without NaN, a progress bar that a log file can bear."""

import gc
import os
import re
import stat

import pytest

from utils import Timer, atomic, json_text, progress, rare_collections, utc_text, write_atomic


def test_json_keeps_the_order_and_ends_with_a_line_feed():
    text = json_text({"b": [1, 2.5], "a": None})
    assert text == '{\n  "b": [\n    1,\n    2.5\n  ],\n  "a": null\n}\n'


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_json_refuses_what_is_no_json_number(number):
    with pytest.raises(ValueError):
        json_text({"x": number})


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "out.json"
    write_atomic(path, "first, which is longer\n")
    write_atomic(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["out.json"]


def half_written(path, failure):
    with atomic(path) as temporary:
        temporary.write_text("half")
        raise failure


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path, failure):
    path = tmp_path / "out.json"
    path.write_text("old")
    with pytest.raises(failure):
        half_written(path, failure)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["out.json"]


def test_the_timer_reads_the_clock_it_is_given():
    seconds = iter([10.0, 12.5, 13.0])
    timer = Timer(lambda: next(seconds))
    assert (timer.seconds, timer.seconds) == (2.5, 3.0)


def test_times_are_shown_to_the_nanosecond():
    assert utc_text(1_722_519_392_491_911_683) == "2024-08-01T13:36:32.491911683Z"
    assert utc_text(0) == "1970-01-01T00:00:00.000000000Z"


def test_progress_goes_to_stderr(capsys):
    with progress(3, "row", "sending") as bar:
        bar.update(3)
        bar.set_postfix_str("lag 0.00 s")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(r"sending: 100%\|.*\| 3\.00/3\.00 \[.*row/s, lag 0\.00 s\]", err)


def test_collections_are_rare_only_within_the_block():
    usual = gc.get_threshold()
    with rare_collections(12_345):
        assert gc.get_threshold() == (12_345, *usual[1:])
    assert gc.get_threshold() == usual
