"""Problems as answers: RFC 9457 over HTTP, the same in a WebSocket message."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.api.problems.catalogue import PROBLEMS, type_of
from app.api.problems.errors import RETRY_AFTER_MS, FieldError, ProblemError

PROBLEM_JSON: Final = "application/problem+json"


class Summary(Struct, frozen=True, kw_only=True):
    """The members of RFC 9457 that a WebSocket message nests, as its own ``type`` means something else."""

    type: str
    title: str
    status: int
    detail: str


class Problem(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """An HTTP problem; the facts of its code, such as ``orderId``, come beside these members."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    # Clients of engines like this one read these three.
    message: str
    error: str
    status_code: int
    errors: tuple[FieldError, ...] = ()


def message_of(
    problem: ProblemError, message_id: str | int | None = None, names: Mapping[str, str] | None = None
) -> str:
    """Return ``problem`` as a WebSocket message, naming the message or the subscription that it answers."""
    body: dict[str, Any] = {"type": "error", "code": problem.code, "message": problem.detail}
    if message_id is not None:
        body["id"] = message_id
    body.update(names or {})
    body.update(problem.facts)
    if problem.errors:
        body["errors"] = problem.errors
    known = PROBLEMS[problem.code]
    body["problem"] = Summary(
        type=type_of(problem.code), title=known.title, status=known.status.value, detail=problem.detail
    )
    return msgspec.json.encode(body).decode()


def response_of(problem: ProblemError, path: str) -> Response:
    """Return ``problem`` as an HTTP answer to a request for ``path``."""
    known = PROBLEMS[problem.code]
    status = known.status
    body = Problem(
        type=type_of(problem.code),
        title=known.title,
        status=status.value,
        detail=problem.detail,
        instance=path,
        code=problem.code,
        message=problem.detail,
        error=status.phrase,
        status_code=status.value,
        errors=problem.errors,
    )
    headers = {"Link": f'<{type_of(problem.code)}>; rel="describedby"; type="text/html"', **problem.headers}
    wait_ms = problem.facts.get("retryAfterMs", RETRY_AFTER_MS if status == HTTPStatus.SERVICE_UNAVAILABLE else None)
    if isinstance(wait_ms, int):
        headers["Retry-After"] = str(-(-wait_ms // 1_000))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="ordertape"'
    if status == HTTPStatus.UPGRADE_REQUIRED:
        headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
    content = msgspec.json.encode({**msgspec.to_builtins(body), **problem.facts})
    return Response(content, status.value, headers, PROBLEM_JSON)


async def answer_problem(request: Request, error: Exception) -> Response:
    """Answer a refused request."""
    assert isinstance(error, ProblemError)
    return response_of(error, request.url.path)


async def answer_routing_error(request: Request, error: Exception) -> Response:
    """Answer a request that no route takes."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = (error.headers or {}).get("Allow", "")
        response = response_of(ProblemError("method_not_allowed", f"use {allowed}, not {request.method}"), path)
        response.headers["Allow"] = allowed
        return response
    return response_of(ProblemError("route_not_found", f"Route {request.method}:{path} not found"), path)
