"""Requests that the description allows, and some that it does not, to a real server: it judges each answer."""

from collections import Counter
from copy import deepcopy
from typing import Any, Final

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from schemathesis import APIOperation, Case, GenerationMode, Response
from schemathesis.checks import CheckContext
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.api.description.examples import ORDERS
from app.api.description.operations import EVENT_STREAM
from tests.descriptions import CLOSED_OPENAPI

REQUEST_SECONDS: Final = 20
ALIAS_REQUESTS: Final = 4
_QUIET: Final = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)

Cases = SearchStrategy[Case[Any]]
Seen = Counter[tuple[str, int]]
"""How often each operation had each status."""


def only_documented_failures(ctx: CheckContext, response: Response, case: Case[Any]) -> None:
    """No mistake of the server: of the statuses from 500 on, only a 503 that the operation is described with."""
    if response.status_code >= 500:
        documented = case.operation.definition.raw["responses"]
        assert response.status_code == 503 and "503" in documented, response.text
    assert "Traceback" not in (response.text or ""), response.text


CHECKS: Final[list[Any]] = [
    only_documented_failures,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def explore(url: str, count: int, seed_number: int) -> Seen:
    """Send about ``count`` requests, half of them as they should be; few to what other paths answer as well.

    Raises:
        AssertionError, or a failure of schemathesis: an answer is not as described; it says how to repeat the request.
    """
    seen: Seen = Counter()
    schema = _schema(url)
    found = [result.ok() for result in schema.get_all_operations()]
    main = [operation for operation in found if not _is_alias(operation)]
    each = count // len(main)
    with requests.Session() as session:
        for operation in found:
            for mode in GenerationMode if _can_be_wrong(operation) else (GenerationMode.POSITIVE,):
                share = ALIAS_REQUESTS if _is_alias(operation) else max(1, each // 2)
                _ask_each(operation.as_strategy(generation_mode=mode), share, seed_number, (session, seen))
    return seen


def explore_links(url: str, each: int, seed_number: int) -> Seen:
    """Place each order of the examples, and follow every link of the answer with ``each`` requests as they should be.

    What is drawn depends on no answer, as a rule-based machine's steps would: those cannot be repeated on a server
    that remembers the first time.
    """
    seen: Seen = Counter()
    schema = _schema(url)
    named = {one.definition.raw["operationId"]: one for one in (found.ok() for found in schema.get_all_operations())}
    links = named["placeOrder"].definition.raw["responses"]["202"]["links"].values()
    with requests.Session() as session:
        for order in ORDERS.values():
            placed = session.post(f"{url}/api/orders", json=order, timeout=REQUEST_SECONDS)
            assert placed.status_code == 202, placed.text
            for link in links:
                assert link["parameters"] == {"orderId": "$response.body#/orderId"}
                cases = named[link["operationId"]].as_strategy(path_parameters={"orderId": placed.json()["orderId"]})
                _ask_each(cases, each, seed_number, (session, seen))
    return seen


def _can_be_wrong(operation: APIOperation[Any, Any, Any, Any]) -> bool:
    """Whether a request can contradict the description: any text may stand in a header."""
    raw = operation.definition.raw
    return "requestBody" in raw or any(one["in"] != "header" for one in raw.get("parameters", ()))


def _is_alias(operation: APIOperation[Any, Any, Any, Any]) -> bool:
    return bool(operation.definition.raw.get("deprecated", False))


def _schema(url: str) -> Any:
    # It writes into what it is given.
    schema = schemathesis.openapi.from_dict(deepcopy(CLOSED_OPENAPI))
    schema.config.update(base_url=url)
    return schema


def _ask_each(cases: Cases, count: int, seed_number: int, given_to: tuple[requests.Session, Seen]) -> None:
    session, seen = given_to

    @seed(seed_number)
    @settings(_QUIET, max_examples=count)
    @given(case=cases)
    def ask(case: Case[Any]) -> None:
        _end_soon(case)
        response = case.call_and_validate(session=session, checks=CHECKS, timeout=REQUEST_SECONDS)
        seen[case.operation.label, response.status_code] += 1

    ask()


def _end_soon(case: Case[Any]) -> None:
    """Let a stream end where the log ends, and nobody wait."""
    if case.query and "waitMs" in case.query and str(case.query["waitMs"]).isdigit():
        case.query = {**case.query, "waitMs": min(int(case.query["waitMs"]), 1)}
    if EVENT_STREAM in case.operation.definition.raw["responses"].get("200", {}).get("content", {}):
        query = dict(case.query or {})
        if "wait" in query:
            query["wait"] = 0
        else:
            query["until"] = "caught_up"
        case.query = query
