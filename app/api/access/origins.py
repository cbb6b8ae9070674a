"""Which web pages may use the API: their origins, and the names by which a development server may be called."""

import ipaddress
from collections.abc import Collection
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from app.api.problems import ProblemError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return False


def require_local_name(headers: Headers) -> None:
    """Return if a request calls this server by a name that can mean this machine alone.

    A page of another site may give its own name this machine's address (DNS rebinding). Then the browser takes the
    server for a part of that site, and only the name tells.

    Raises:
        ProblemError: ``host_refused``.
    """
    for host in headers.getlist("host"):
        if not is_loopback(_name_in(host)):
            raise ProblemError(
                "host_refused", "without keys this server answers to localhost, 127.0.0.1 and [::1] alone"
            )


def is_allowed(headers: Headers, allowed: Collection[str]) -> bool:
    """Whether a request comes from no page, from one of this server's own, or from one of an allowed origin."""
    origins = headers.getlist("origin")
    if not origins:
        return True
    if len(origins) > 1:
        return False
    [origin] = origins
    if origin.lower() in allowed:
        return True
    parts = urlsplit(origin)
    # The scheme may differ: a proxy in front of this server may speak TLS.
    return parts.scheme in ("http", "https") and parts.netloc.lower() == headers.get("host", "").lower() != ""


def require_allowed(headers: Headers, allowed: Collection[str]) -> None:
    """Return if :func:`is_allowed`.

    Raises:
        ProblemError: ``origin_refused``.
    """
    if not is_allowed(headers, allowed):
        detail = "pages of this origin may not use this API: its operator allows some by ORDERTAPE_ALLOWED_ORIGINS"
        raise ProblemError("origin_refused", detail)


def _name_in(host: str) -> str:
    """Return the name or address in a Host header."""
    if host.startswith("["):
        return host.partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host
