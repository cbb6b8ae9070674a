"""What a projection is: one read model, a function of the changes of orders, in one table."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct
from sqlalchemy import MetaData, Table
from sqlalchemy.ext.asyncio import AsyncConnection

from projections.fold.histories import Change
from projections.fold.orders import OrderRow

Key = tuple[Any, ...]
"""The values of a table's primary key, in its order."""


class Step(Struct, frozen=True):
    """What some events did, all of them or nothing."""

    rows: Sequence[OrderRow]
    """Each order that moved, once, as it is afterwards."""
    changes: Sequence[Change]
    """The events that were applied, of the types that the projection wants; those of one order in order."""


class Projection(Protocol):
    """A read model. A module in this package that names one ``PROJECTION`` is projected, rebuilt and compared.

    The rows are a function of the events alone, whatever their order between orders and however they are cut into
    steps; the laws are in ``tests/property``.
    """

    @property
    def name(self) -> str:
        """The projection's name, and its table's."""
        ...

    @property
    def event_types(self) -> Collection[str]:
        """The event types (``meta.type``) whose changes it needs."""
        ...

    def define(self, metadata: MetaData, table: str) -> Table:
        """Define the table under another name; constraints and indexes are called ``<table>_…``.

        Its first definition, under :attr:`name`, goes into :data:`projections.schema.tables.metadata`.
        """
        ...

    async def apply(self, connection: AsyncConnection, table: str, step: Step) -> None:
        """Bring ``table`` to where it is after ``step``, in the caller's transaction."""
        ...

    async def load(self, connection: AsyncConnection, table: str, step: Step) -> None:
        """As :meth:`apply`, for whole lives of orders that the table knows nothing of yet."""
        ...

    def fold(self, steps: Sequence[Step]) -> Mapping[Key, Mapping[str, Any]]:
        """Return the rows after ``steps`` from nothing: by primary key, the other columns, as the table reads back."""
        ...
