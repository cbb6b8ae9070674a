"""What clients send: bodies, whose mistakes are all reported together, queries, and conditions on versions."""

import difflib
import json
import re
from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NoReturn, cast

from starlette.requests import Request

from app.api.problems import FieldError, ProblemError

BODY_BYTES_MAX: Final = 65_536
DEPTH_MAX: Final = 16
CLIENT_CHARACTERS_MAX: Final = 64
KEY_CHARACTERS_MAX: Final = 255
ERRORS_MAX: Final = 16

INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,14}", re.ASCII)
TIME_ACCEPTED: Final = (
    'must be a time as RFC 3339 writes it, with "Z" or an offset, such as "2027-01-31T12:00:00Z"; '
    "numbers are refused because clients mean seconds or milliseconds by them"
)
_TIME: Final = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(?:\.\d{1,9})?(?:[Zz]|[+-]\d{2}:\d{2})", re.ASCII)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_STRING_ITEM: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)" *(?:; *[a-z*][a-z0-9_.*-]*(?:=[!-:<-~]+)? *)*')
"""An Item of RFC 8941 whose value is a String; its parameters mean nothing here."""
_TAGS: Final = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_VERSION: Final = re.compile(r"[1-9][0-9]{0,14}", re.ASCII)
_TOKENS_OF_DEPTH: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


class Number(str):
    """A JSON number as it was written: an amount must never pass through a float."""


class _RepeatedNameError(ValueError):
    pass


class _ForeignLiteralError(ValueError):
    pass


def parse_object(data: bytes | str) -> dict[str, Any]:
    """Return the members of the JSON object that ``data`` spells; numbers as their text, of a type of its own.

    Raises:
        ProblemError: ``json_malformed`` with the position, or ``json_too_deep``.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
    except UnicodeDecodeError as error:
        raise _malformed(f"is not UTF-8 at byte {error.start + 1}") from None
    _check_depth(text)
    try:
        value = _decoder.decode(text)
    except json.JSONDecodeError as error:
        raise _malformed(f"{error.msg} (line {error.lineno}, column {error.colno})") from None
    except _RepeatedNameError as error:
        raise _malformed(f"the name {error} occurs twice in one object") from None
    except _ForeignLiteralError as error:
        raise _malformed(f"{error} is not a JSON value") from None
    if not isinstance(value, dict):
        raise _malformed("must be an object such as {…}")
    if "\\u" in text:
        _check_texts(value, "")
    return cast("dict[str, Any]", value)


def read_header_key(values: list[str]) -> str | None:
    """Return the idempotency key in the values of the header ``Idempotency-Key``: a string of RFC 8941, or bare.

    Raises:
        ProblemError: ``idempotency_key_malformed``.
    """
    if not values:
        return None
    text = values[0].strip()
    if text.startswith('"'):
        match = _STRING_ITEM.fullmatch(text)
        text = re.sub(r"\\(.)", r"\1", match[1]) if match else ""
    if len(set(values)) > 1 or not is_printable(text, KEY_CHARACTERS_MAX) or not text.isascii():
        raise ProblemError(
            "idempotency_key_malformed",
            f"the header Idempotency-Key must be given once, with 1 to {KEY_CHARACTERS_MAX} printable characters, "
            'as a string in quotes such as "order-1", or without any quotes',
        )
    return text


async def read_body(request: Request) -> bytes:
    """Return a request's body.

    Raises:
        ProblemError: ``body_too_large``.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise ProblemError("body_too_large", f"a body has at most {BODY_BYTES_MAX} bytes")
    return bytes(body)


def read_query(request: Request, accepted: Collection[str]) -> Mapping[str, str]:
    """Return a request's query parameters, each of which is accepted and given once.

    Raises:
        ProblemError: ``invalid_query``, here and below.
    """
    given = request.query_params
    for name, _ in given.multi_items():
        if name not in accepted:
            raise invalid_parameter(name, f"is not a parameter here; accepted are {', '.join(accepted)}")
        if len(given.getlist(name)) > 1:
            raise invalid_parameter(name, "must be given once")
    return given


def read_limit(query: Mapping[str, str], default: int, most: int) -> int:
    """Return the parameter ``limit``: how much is wanted at most."""
    text = query.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= most):
        raise invalid_parameter("limit", f"must be a whole number from 1 to {most}")
    return int(text[:9])


def read_choice(query: Mapping[str, str], name: str, choices: Collection[str]) -> str | None:
    """Return a parameter that is one of ``choices``; None when it is absent."""
    value = query.get(name)
    if value is not None and value not in choices:
        raise invalid_parameter(name, f"must be one of {', '.join(choices)}")
    return value


def read_client(query: Mapping[str, str]) -> str | None:
    """Return the parameter ``clientId``, or ``userId``, which means the same; None when both are absent."""
    if "clientId" in query and "userId" in query:
        raise invalid_parameter("userId", "must not be given beside clientId: both mean the same")
    name = "userId" if "userId" in query else "clientId"
    client = query.get(name)
    if client is not None and not is_printable(client, CLIENT_CHARACTERS_MAX):
        raise invalid_parameter(name, f"must be 1 to {CLIENT_CHARACTERS_MAX} printable characters")
    return client


def read_choices(query: Mapping[str, str], name: str, choices: Collection[str]) -> tuple[str, ...]:
    """Return the values of a parameter that lists some of ``choices``, with commas; () when it is absent."""
    found = tuple(dict.fromkeys(query[name].split(","))) if name in query else ()
    if not set(found) <= set(choices):
        raise invalid_parameter(name, f"must be one or more of {', '.join(choices)}, with commas between them")
    return found


def read_pair(query: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the base and the quote asset that the parameter ``pair`` names; None when it is absent."""
    value = query.get("pair")
    if value is None:
        return None
    base, slash, quote = value.partition("/")
    if not (slash and base and quote and value.isascii() and value.isprintable()):
        raise invalid_parameter("pair", "must be a pair such as SOL/USDC")
    return base, quote


def read_time_us(query: Mapping[str, str], name: str) -> int | None:
    """Return the time that a parameter names, in microseconds since 1970; None when it is absent."""
    text = query.get(name)
    if text is None:
        return None
    at_us = time_us(text)
    if at_us is None:
        # In a query, a plus sign that is not written as %2B is a space.
        raise invalid_parameter(name, f'{TIME_ACCEPTED}; write "+" as %2B')
    return at_us


def time_us(value: Any) -> int | None:
    """Return the microseconds since 1970 that a text of RFC 3339 names; None for anything else.

    Digits after the microsecond are dropped.
    """
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return None
    try:
        moment = datetime.fromisoformat(value.upper())
    except (ValueError, OverflowError):
        return None
    return (moment - _EPOCH) // timedelta(microseconds=1)


def tag_of(version: int) -> str:
    """Return the strong entity tag of an order's version."""
    return f'"{version}"'


def is_known(request: Request, tag: str) -> bool:
    """Return whether ``If-None-Match`` (RFC 9110, 13) says that the client has the representation with this tag.

    The comparison is the weak one; ``*`` is any tag.
    """
    text = ",".join(request.headers.getlist("if-none-match")).strip()
    return text == "*" or tag.removeprefix("W/") in (f'"{opaque}"' for _, opaque in _TAGS.findall(text))


def read_versions(request: Request) -> Collection[int] | None:
    """Return the versions of an order that ``If-Match`` names; None where it is absent or ``*``: any.

    The comparison is the strong one, so a weak tag names none; nor does what is no tag of ours.
    """
    values = request.headers.getlist("if-match")
    text = ",".join(values).strip()
    if not values or text == "*":
        return None
    return {int(opaque) for weak, opaque in _TAGS.findall(text) if not weak and _VERSION.fullmatch(opaque)}


def invalid_parameter(name: str, message: str) -> ProblemError:
    """Return the refusal of a query because of one parameter; ``message`` says what it accepts."""
    shown = name[:64].encode("ascii", "backslashreplace").decode()
    return ProblemError("invalid_query", f"{shown} {message}", [FieldError(f"/{shown}", message)])


class Form:
    """Takes the fields of an object one by one and collects what is wrong with them."""

    def __init__(self, members: Mapping[str, Any]) -> None:
        self._left = dict(members)
        self._errors: list[FieldError] = []

    def refuse(self, name: str, message: str) -> None:
        """Note what is wrong with a field, and what it accepts."""
        self._errors.append(FieldError(pointer_to(name), message))

    def take(self, names: tuple[str, ...]) -> Any:
        """Remove and return a field's value, however the field is spelled; None when it is absent, or null."""
        given = [name for name in names if name in self._left]
        values = [self._left.pop(name) for name in given]
        for name in given[1:]:
            self.refuse(name, f"must not be given beside {given[0]}: both mean the same")
        return values[0] if given else None

    def text(self, names: tuple[str, ...], characters_max: int, *, needed: bool = False) -> str | None:
        """Take a text; None when it is absent or refused."""
        value = self.take(names)
        if value is None:
            if needed:
                self.refuse(names[0], "is missing")
            return None
        if isinstance(value, Number) or not isinstance(value, str) or not is_printable(value, characters_max):
            self.refuse(names[0], f"must be text of 1 to {characters_max} printable characters")
            return None
        return value

    def whole(self, name: str, least: int, most: int) -> int | None:
        """Take a whole number; None when it is absent or refused."""
        value = self.take((name,))
        if value is None:
            return None
        if isinstance(value, Number) and INTEGER.fullmatch(value) and least <= int(value) <= most:
            return int(value)
        self.refuse(name, f"must be a whole number from {least} to {most}")
        return None

    def refuse_unknown(self, accepted: tuple[str, ...], explained: Mapping[str, str] | None = None) -> None:
        """Refuse every field that is left and not ``accepted``, and those that ``explained`` has a message for."""
        for name in self._left:
            advice = (explained or {}).get(name)
            if advice is not None:
                self.refuse(name, advice)
            elif name not in accepted:
                self.refuse(name, f"is not a field here; {_suggestion(name, accepted)}")

    def finish(self, code: Literal["invalid_order", "invalid_message", "invalid_query"]) -> None:
        """Raise if anything was refused."""
        if self._errors:
            detail = "; ".join(f"{error.pointer[1:]} {error.message}" for error in self._errors[:ERRORS_MAX])
            raise ProblemError(code, detail, self._errors[:ERRORS_MAX])


def _suggestion(name: str, accepted: tuple[str, ...]) -> str:
    plain = {spelling.lower(): spelling for spelling in accepted}
    near = difflib.get_close_matches(name[:64].replace("_", "").lower(), plain, n=1)
    if near:
        return f"did you mean {plain[near[0]]}?"
    return f"accepted are {', '.join(accepted)}" if accepted else "none is accepted"


def is_printable(text: str, characters_max: int) -> bool:
    return 1 <= len(text) <= characters_max and text.isprintable()


def pointer_to(*names: str) -> str:
    parts = (name[:64].replace("~", "~0").replace("/", "~1") for name in names)
    return "".join(f"/{part}" for part in parts).encode("ascii", "backslashreplace").decode()


def _malformed(problem: str) -> ProblemError:
    return ProblemError("json_malformed", f"the body is not acceptable as JSON: {problem}")


def _check_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= DEPTH_MAX:
        return
    depth = 0
    for found in _TOKENS_OF_DEPTH.finditer(text):
        if found[0] in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise ProblemError("json_too_deep", f"arrays and objects may be nested {DEPTH_MAX} deep, not deeper")
        elif found[0] in "]}":
            depth -= 1


def _check_texts(value: Any, pointer: str) -> None:
    match value:
        case str():
            if "\0" in value or any("\ud800" <= char <= "\udfff" for char in value):
                message = "must not contain U+0000 or unpaired surrogates"
                raise ProblemError("json_malformed", f"{pointer[1:]} {message}", [FieldError(pointer, message)])
        case list():
            for index, item in enumerate(value):
                _check_texts(item, f"{pointer}/{index}")
        case dict():
            for name, item in value.items():
                _check_texts(name, pointer + pointer_to(name))
                _check_texts(item, pointer + pointer_to(name))


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        names = [name for name, _ in pairs]
        raise _RepeatedNameError(pointer_to(next(name for name in names if names.count(name) > 1)))
    return members


def _refuse_literal(literal: str) -> NoReturn:
    raise _ForeignLiteralError(literal)


_decoder: Final = json.JSONDecoder(
    object_pairs_hook=_members, parse_float=Number, parse_int=Number, parse_constant=_refuse_literal
)
