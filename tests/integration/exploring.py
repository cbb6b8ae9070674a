"""Requests that the description allows, and some that it does not, to a real server: it judges each answer."""

from collections import Counter
from copy import deepcopy
from typing import Any, Final

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import APIOperation, Case, GenerationMode, Response
from schemathesis.checks import CheckContext
from schemathesis.generation.stateful.state_machine import APIStateMachine
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.api.description.operations import EVENT_STREAM
from tests.descriptions import CLOSED_OPENAPI

REQUEST_SECONDS: Final = 20
STEPS: Final = 6
ALIAS_REQUESTS: Final = 4
_QUIET: Final = settings(
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
    report_multiple_bugs=False,
)

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
                _explore_one(operation, mode, share, seed_number, (session, seen))
    return seen


def explore_links(url: str, sequences: int, seed_number: int) -> Seen:
    """Follow links from one answer to the next request: an order is placed, then shown, listed, streamed, cancelled."""
    seen: Seen = Counter()
    machine: type[APIStateMachine] = _schema(url).as_state_machine()

    class Linked(machine):  # type: ignore[misc, valid-type]  # made for this schema
        def before_call(self, case: Case[Any]) -> None:
            _end_soon(case)

        def get_call_kwargs(self, case: Case[Any]) -> dict[str, Any]:
            return {"timeout": REQUEST_SECONDS}

        def validate_response(self, response: Response, case: Case[Any], **_: Any) -> None:
            case.validate_response(response, checks=CHECKS)

        def after_call(self, response: Response, case: Case[Any]) -> None:
            seen[case.operation.label, response.status_code] += 1

    seed(seed_number)(Linked)
    Linked.run(settings=settings(_QUIET, max_examples=sequences, stateful_step_count=STEPS))
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


def _explore_one(
    operation: APIOperation[Any, Any, Any, Any],
    mode: GenerationMode,
    count: int,
    seed_number: int,
    given_to: tuple[requests.Session, Seen],
) -> None:
    session, seen = given_to

    @seed(seed_number)
    @settings(_QUIET, max_examples=count)
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Case[Any]) -> None:
        _end_soon(case)
        response = case.call_and_validate(session=session, checks=CHECKS, timeout=REQUEST_SECONDS)
        seen[operation.label, response.status_code] += 1

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
