"""What PostgreSQL refuses: narrowed down to one event, whose order then stands still while everything else goes on."""

import logging
from collections.abc import Awaitable
from typing import Final

import psycopg
from psycopg import errors
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from eventstore.ids import event_id
from eventstore.store import StoredCommit
from projections.archive.lines import copy_events
from projections.checkpoints import Checkpoints
from projections.errors import ArchiveConflictError
from projections.projector.batches import Fault, Faults, batch_of
from projections.projector.writing import apply_entries

log: Final = logging.getLogger(__name__)

REFUSALS: Final = (DataError, IntegrityError, psycopg.DataError, psycopg.IntegrityError)
"""What the server raises for values that a column or constraint does not take; nothing else says that of an event."""

UNARCHIVABLE: Final = "the archive's columns do not take it"
_ARCHIVE: Final = "order_events"


def reason_of(error: BaseException) -> str:
    """Return what the server says of a value that it refuses."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    primary = cause.diag.message_primary if isinstance(cause, psycopg.Error) else None
    return f"PostgreSQL refuses it: {primary or type(cause).__name__}"


def require_refusal(error: BaseException, commit: StoredCommit) -> None:
    """Return if ``error`` is about an event's values.

    Raises:
        ArchiveConflictError: the archive holds another event at the same place; that is no fault of this one.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(cause, errors.UniqueViolation) and cause.diag.table_name == _ARCHIVE:
        raise ArchiveConflictError(commit.partition, commit.position, str(cause.diag.message_detail)) from error


async def find_fault(
    connection: AsyncConnection, commit: StoredCommit, checkpoints: Checkpoints, known: Faults
) -> Faults:
    """Return ``known`` with the first event of ``commit`` that the database refuses, why, and whether the archive does.

    Only looks: whatever it tries is rolled back.

    Raises:
        ArchiveConflictError: as :func:`require_refusal`.
    """
    batch = batch_of([commit], checkpoints, known)
    for number, (entry, line) in enumerate(zip(batch.entries, batch.lines, strict=True), start=1):
        error = await _tried(connection, copy_events(connection, [line]))
        unarchivable = error is not None
        if error is None:
            error = await _tried(connection, apply_entries(connection, batch.entries[:number], {}))
        if error is not None:
            require_refusal(error, commit)
            reason = UNARCHIVABLE if unarchivable else reason_of(error)
            log.warning(
                "event_refused", extra={"event": event_id(entry.order_id, entry.version), "problem": str(error)}
            )
            return {**known, (entry.order_id, entry.version): Fault(reason, unarchivable)}
    return known


async def _tried(connection: AsyncConnection, act: Awaitable[object]) -> Exception | None:
    """Return what the database refuses of ``act``, which is undone; None where it takes everything."""
    attempt = await connection.begin_nested()
    try:
        await act
    except REFUSALS as error:
        return error
    finally:
        await attempt.rollback()
    return None
