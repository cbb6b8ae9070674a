"""The projections that this package holds, found by their modules."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Final, cast

from sqlalchemy import MetaData, Table

from projections import models
from projections.models.orders import PROJECTION as ORDERS
from projections.models.projection import Projection
from projections.schema.tables import metadata

NEXT: Final = "_next"
"""What is appended to the name of a projection and its table while it is built beside the live one."""
OLD: Final = "_old"
"""The same for one that was replaced and is kept."""


def _others() -> dict[str, Projection]:
    modules = (import_module(f"{models.__name__}.{module.name}") for module in iter_modules(models.__path__))
    found = (cast("Projection | None", getattr(module, "PROJECTION", None)) for module in modules)
    return {projection.name: projection for projection in found if projection not in (None, ORDERS)}


OTHERS: Final = _others()
"""Every projection but ``orders``, by name."""

PROJECTIONS: Final[dict[str, Projection]] = {ORDERS.name: ORDERS, **OTHERS}
"""All of them, by name."""

METADATA: Final = metadata
"""Every table, those of the read models included."""


def table_of(projection: Projection, generation: str = "") -> Table:
    """Return the table of a generation of ``projection``: the live one, :data:`NEXT` or :data:`OLD`."""
    return projection.define(MetaData(), projection.name + generation)
