"""What answers are described with beside the Structs that they are made of: facts of problems, spliced texts."""

from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType

from app.api.description.documents.events import FRAME
from app.api.description.documents.schemas import ref
from app.api.problems import Code, FieldError
from app.api.problems.answers import Summary

Frames = Annotated[list[Any], Meta(extra_json_schema={"items": ref(FRAME)})]
"""Events, as stored text."""


class Poll(Struct, frozen=True, kw_only=True, rename="camel"):
    """The events that came, oldest first; none if the time was over before."""

    cursor: str
    """The next request's ``after``."""
    more: bool
    """There are further events behind these."""
    ended: bool
    """Nothing will ever follow."""
    events: Frames


class Common(Struct, frozen=True, kw_only=True, rename="camel"):
    """The last event that both histories have; resume after its cursor."""

    seq: int | None = None
    cursor: str


class Facts(Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What a problem says beside its code; which of them depends on that."""

    order_id: str | None = None
    order_status: str | None = None
    retry_after_ms: int | None = None
    """When to ask again."""
    cursor: str | None = None
    """The one that was given."""
    last_common: Common | UnsetType | None = UNSET
    """Null where there is none: forget the order."""
    last: int | None = None
    """The order's last seq."""
    seq: int | None = None
    """The order's version."""
    earliest: str | None = None
    """The first place that can be read from."""
    head: str | None = None
    """Where the log ends."""
    snapshot: str | None = None
    """Where the orders are."""
    partition: int | None = None
    wanted: int | None = None
    """The position that was asked for."""
    reached: int | None = None
    """The position that the read model has."""
    sub: str | None = None
    """The subscription that is meant."""
    client_id: str | None = None
    scope: str | None = None


class Refusal(Facts, frozen=True, kw_only=True, omit_defaults=True, rename="camel", tag_field="type", tag="error"):
    """Why a message is refused, or a subscription ends, and what to do; the same codes as over HTTP."""

    id: str | int | None = None
    """Of the message that is meant, if that has one."""
    code: Code
    message: str
    """Specific to this message."""
    errors: list[FieldError] | None = None
    """What is wrong with each field."""
    problem: Summary
    """The other members of RFC 9457."""
