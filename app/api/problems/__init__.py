"""Errors as clients see them: their types with a page each, as HTTP answers, in WebSocket messages, and close codes."""

from app.api.problems.answers import answer_problem, answer_routing_error, goaway_of, message_of, response_of
from app.api.problems.catalogue import PROBLEMS, Code, ProblemType
from app.api.problems.errors import (
    DRAINING,
    LOG_LOST,
    LOG_REWOUND,
    RETRY_AFTER_MS,
    SLOW,
    TOO_MANY_MESSAGES,
    TOO_MANY_SOCKETS,
    Closing,
    Fact,
    FieldError,
    ProblemError,
    cancel_problem,
    store_problem,
    unavailable,
)

__all__ = [
    "DRAINING",
    "LOG_LOST",
    "LOG_REWOUND",
    "PROBLEMS",
    "RETRY_AFTER_MS",
    "SLOW",
    "TOO_MANY_MESSAGES",
    "TOO_MANY_SOCKETS",
    "Closing",
    "Code",
    "Fact",
    "FieldError",
    "ProblemError",
    "ProblemType",
    "answer_problem",
    "answer_routing_error",
    "cancel_problem",
    "goaway_of",
    "message_of",
    "response_of",
    "store_problem",
    "unavailable",
]
