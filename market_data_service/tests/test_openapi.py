"""docs/openapi.json is the document that the API serves, and the document tells what the API does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app import problems, providers, schemas
from app.main import create_app
from scripts import export_openapi

DOCUMENT: dict[str, Any] = create_app().openapi()
OPERATIONS = [
    pytest.param(operation, id=f"{method} {path}")
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def test_the_committed_document_is_the_one_that_is_served(capsys: pytest.CaptureFixture[str]) -> None:
    assert export_openapi.main(["--check"]) == 0, "run: PYTHONPATH=. python scripts/export_openapi.py"
    assert capsys.readouterr().out == "up to date: openapi.json\n"


def test_a_document_that_differs_is_found_and_written_anew(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(export_openapi, "FILE", tmp_path / "openapi.json")
    assert export_openapi.main(["--check"]) == 1
    assert capsys.readouterr().err.startswith("error: openapi.json is not up to date")
    assert export_openapi.main([]) == 0
    assert json.loads(export_openapi.FILE.read_text()) == DOCUMENT
    export_openapi.FILE.write_text(export_openapi.FILE.read_text().replace("AAPL", "MSFT"))
    assert export_openapi.main(["--check"]) == 1


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_error_is_a_problem_document(operation: dict[str, Any]) -> None:
    errors = {int(status): each for status, each in operation["responses"].items() if int(status) >= 400}
    assert {413, 500} <= errors.keys()
    for response in errors.values():
        schema = {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}
        assert response["content"] == {problems.MEDIA_TYPE: schema}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_what_is_wrong_where_there_are_parameters_is_a_422(operation: dict[str, Any]) -> None:
    has_input = bool(operation.get("parameters") or operation.get("requestBody"))
    assert ("422" in operation["responses"]) == has_input


@pytest.mark.parametrize("operation", OPERATIONS)
def test_no_parameter_is_said_to_be_null(operation: dict[str, Any]) -> None:
    assert "null" not in json.dumps(operation.get("parameters", []))


def test_a_503_tells_when_to_come_again() -> None:
    found = [
        each["responses"]["503"]
        for methods in DOCUMENT["paths"].values()
        for each in methods.values()
        if "503" in each["responses"]
    ]
    assert len(found) == 10
    assert all("Retry-After" in each["headers"] for each in found)


def test_the_latest_price_tells_its_headers_and_all_that_can_happen() -> None:
    responses = DOCUMENT["paths"]["/prices/latest"]["get"]["responses"]
    assert set(responses) == {"200", "304", "400", "404", "413", "422", "500", "502", "503", "504"}
    assert set(responses["200"]["headers"]) == {"X-Cache", "Age", "ETag"}


def test_the_document_names_the_providers_and_the_limits() -> None:
    parameters = {each["name"]: each["schema"] for each in DOCUMENT["paths"]["/prices/latest"]["get"]["parameters"]}
    assert parameters["provider"]["enum"] == list(providers.names())
    assert parameters["symbol"]["maxLength"] == 15
    poll = DOCUMENT["components"]["schemas"]["PollOne"]
    assert not poll["additionalProperties"]
    interval = poll["properties"]["interval_minutes"]
    assert (interval["minimum"], interval["maximum"]) == (1, schemas.MOST_MINUTES)
    assert set(poll["required"]) == {"symbol", "interval_minutes"}
