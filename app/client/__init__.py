"""A client of the engine that loses no event: it reconnects and resumes by itself. Imports nothing else of ours."""

from app.client.client import Client
from app.client.errors import (
    ClientError,
    EventMissingError,
    HistoryForkedError,
    LastCommon,
    OrderEndedError,
    OrderRefusedError,
    PlaceLostError,
    SentAwayError,
    UnreachableError,
)
from app.client.following import TERMINAL, Pace

__all__ = [
    "TERMINAL",
    "Client",
    "ClientError",
    "EventMissingError",
    "HistoryForkedError",
    "LastCommon",
    "OrderEndedError",
    "OrderRefusedError",
    "Pace",
    "PlaceLostError",
    "SentAwayError",
    "UnreachableError",
]
