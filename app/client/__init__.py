"""A client of the engine that loses no event: it reconnects and resumes by itself. Imports nothing else of ours."""

from app.client.client import (
    Client,
    ClientError,
    HistoryForkedError,
    LastCommon,
    OrderEndedError,
    OrderRefusedError,
    UnreachableError,
)

__all__ = [
    "Client",
    "ClientError",
    "HistoryForkedError",
    "LastCommon",
    "OrderEndedError",
    "OrderRefusedError",
    "UnreachableError",
]
