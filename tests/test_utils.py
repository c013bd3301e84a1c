"""The small tools: whole files or none, JSON without NaN, a timer."""

import gc
import os
import stat

import pytest

from utils import Timer, atomic, json_text, rare_collections, utc_text, write_atomic


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
    assert os.listdir(tmp_path) == ["out.json"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_file_has_the_rights_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "out.json", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.json").stat().st_mode) == mode


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


def test_temporary_files_of_killed_processes_are_removed_and_those_of_others_at_work_are_not(tmp_path):
    path = tmp_path / "out.json"
    abandoned = [tmp_path / f".out.json.{i}.tmp" for i in range(2)]
    others = [tmp_path / ".other.json.1.tmp", tmp_path / ".out.json.mine"]
    for left in (*abandoned, *others):
        left.write_text("half")
    with atomic(path) as at_work:
        write_atomic(path, "second")
        assert at_work.exists()
        at_work.write_text("first, but later")
    assert sorted(tmp_path.iterdir()) == sorted([path, *others])
    assert path.read_text() == "first, but later"


def test_an_error_of_the_disk_names_the_file(tmp_path):
    with pytest.raises(OSError) as caught, atomic(tmp_path / "out.json"):
        raise OSError(28, "No space left on device")
    assert caught.value.filename == str(tmp_path / "out.json")
    with pytest.raises(FileNotFoundError) as caught:
        write_atomic(tmp_path / "no folder" / "out.json", "text")
    assert caught.value.filename == str(tmp_path / "no folder" / "out.json")


def test_the_timer_reads_the_clock_it_is_given():
    seconds = iter([10.0, 12.5, 13.0])
    timer = Timer(lambda: next(seconds))
    assert (timer.seconds, timer.seconds) == (2.5, 3.0)


def test_times_are_shown_to_the_nanosecond():
    assert utc_text(1_722_519_392_491_911_683) == "2024-08-01T13:36:32.491911683Z"
    assert utc_text(0) == "1970-01-01T00:00:00.000000000Z"


def test_collections_are_rare_only_within_the_block():
    usual = gc.get_threshold()
    with rare_collections(12_345):
        assert gc.get_threshold() == (12_345, *usual[1:])
    assert gc.get_threshold() == usual


def test_what_is_no_file_is_not_replaced(tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path in (fifo, tmp_path, "/dev/null"):
        with pytest.raises(OSError, match="it is no file that could be replaced"), atomic(path):
            pytest.fail("the block must not be entered")
    assert fifo.is_fifo()
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
