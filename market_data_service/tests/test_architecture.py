"""docs/architecture.png: drawn from what the code is now, and what it says of who writes what is what the design says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from local import SERVICE
from scripts import draw_architecture
from scripts.draw_architecture import PICTURE, TEXT, Topology

AGAIN = "draw it again: PYTHONPATH=. python scripts/draw_architecture.py"


@pytest.fixture(scope="module")
def found() -> Topology:
    return draw_architecture.topology()


def writers(found: Topology, table: str) -> set[str]:
    return {name for name, process in found["processes"].items() if table in process["writes"]}


def test_the_picture_was_drawn_from_what_the_code_is_now(found: Topology) -> None:
    with Image.open(PICTURE) as picture:
        assert json.loads(picture.text[TEXT]) == found, AGAIN


def test_the_picture_is_what_the_script_draws(tmp_path: Path) -> None:
    assert draw_architecture.main(["--out", str(tmp_path / "again.png")]) == 0
    with Image.open(PICTURE) as kept, Image.open(tmp_path / "again.png") as again:
        assert kept.size == again.size
        difference = np.abs(np.asarray(kept.convert("L"), float) - np.asarray(again.convert("L"), float))
    assert difference.mean() < 0.5, AGAIN  # of 255: the same but for how another machine smooths letters


def test_every_process_of_the_compose_file_is_drawn_and_nothing_else(found: Topology) -> None:
    assert set(found["processes"]) == {"api", "relay", "consumer", "poller"}
    assert set(found["servers"]) == {"postgres", "zookeeper", "kafka"}


def test_a_price_its_response_and_its_event_are_written_by_the_api_and_the_poller_alone(found: Topology) -> None:
    for table in ("raw_responses", "market_prices", "latest_prices"):
        assert writers(found, table) == {"api", "poller"}
    assert writers(found, "outbox") == {"api", "poller", "relay"}


def test_averages_and_offsets_are_written_by_the_consumer_alone(found: Topology) -> None:
    for table in ("moving_averages", "consumer_offsets", "dead_letters"):
        assert writers(found, table) == {"consumer"}
    assert "market_prices" in found["processes"]["consumer"]["reads"]


def test_kafka_is_touched_by_relay_and_consumer_alone_and_providers_by_api_and_poller(found: Topology) -> None:
    processes = found["processes"]
    assert {name for name, each in processes.items() if each["publishes"] or each["consumes"]} == {"relay", "consumer"}
    assert {name for name, each in processes.items() if each["asks_providers"]} == {"api", "poller"}


def test_sql_of_a_function_that_nobody_calls_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program.py").write_text("from helpers import called\n\ncalled()\n")
    (tmp_path / "helpers.py").write_text(
        'SQL = "INSERT INTO outbox (id) SELECT id FROM heartbeats"\n\n\n'
        "def called():\n    return SQL\n\n\n"
        'def forgotten():\n    return "UPDATE market_prices SET price = 1"\n'
    )
    monkeypatch.setattr(draw_architecture, "SERVICE", tmp_path)
    draw_architecture._source.cache_clear()
    uses = draw_architecture._uses(tmp_path / "program.py")
    draw_architecture._source.cache_clear()
    assert (uses["writes"], uses["reads"]) == (["outbox"], ["heartbeats"])


def test_json_prints_the_topology_and_draws_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], found: Topology
) -> None:
    assert draw_architecture.main(["--json", "--out", str(tmp_path / "none.png")]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert not (tmp_path / "none.png").exists()


def test_the_architecture_page_names_every_table_topic_and_program(found: Topology) -> None:
    text = (SERVICE / "docs" / "architecture.md").read_text()
    words = set(re.findall(r"`([^`]+)`", text))
    assert set(found["tables"]) | set(found["topics"].values()) <= words
    assert {process["file"] for process in found["processes"].values()} <= words
    assert "architecture.png" in text
