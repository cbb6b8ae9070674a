"""All configuration: one frozen value, read once from the environment and `.env`, refused when it makes no sense."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import quote, urlsplit

from dotenv import dotenv_values
from msgspec import Struct

from eventstore.errors import BadLevelError
from eventstore.levels import FSYNC, WITNESSED, Level
from eventstore.store import NEW_STREAM_SECONDS_MAX

LogLevel = Literal["debug", "info", "warning", "error"]
Necessity = Literal["optional", "required"]
Auth = Literal["open", "keys"]

PREFIX: Final = "ORDERTAPE_"
SKEW_SECONDS_MAX: Final = 30
"""Clock skew between a host and its servers, beyond which `ordertape doctor` refuses them."""
# No order may begin again after it has left Redis. The host that made its id may be ahead of Redis, and the one that
# ended it behind: the id then looks younger, and the end older, than they are, by the greatest skew each.
ARCHIVE_SECONDS_MIN: Final = NEW_STREAM_SECONDS_MAX + 2 * SKEW_SECONDS_MAX
PROFILES: Final = ("assignment", "major", "longtail")
"""As :mod:`app.dex.profile` has them."""
RATE_MAX: Final = 1_000_000
_MILLION: Final = 1_000_000
_T = TypeVar("_T")


class Settings(Struct, frozen=True, kw_only=True):
    """What every process of the engine runs with. Defaults suit one machine with embedded servers."""

    redis_url: str | None = None
    """``redis://``, ``rediss://`` or ``unix://``; None: the embedded Valkey."""
    database_url: str | None = None
    """``postgresql://…``; None: the embedded PostgreSQL."""
    chain_redis_url: str | None = None
    """Where the simulated chain lives; None: beside the event store."""
    data_dir: str = ".ordertape"
    ack_level: Level = FSYNC
    """What an acknowledgement is worth; see docs/guarantees.md."""
    intent_level: Level | None = None
    """What a recorded intent is worth before its swap is sent; None: see :attr:`intent`."""
    store_epoch: int | None = None
    """Names the servers' data where a managed Redis hides its own identity; greater after each possible loss."""
    host: str = "127.0.0.1"
    port: int = 3000
    auth: Auth = "open"
    """Who may use the API: whoever reaches it, on a loopback ``host`` alone, or holders of keys."""
    allowed_origins: tuple[str, ...] = ()
    """Of web pages elsewhere that may use the API, in lower case."""
    requests_per_second: int | None = None
    """Of one key, or, without keys, of one address; 0: any number. None, here and below: as :mod:`app.main` says."""
    key_connections: int | None = None
    address_connections: int | None = None
    socket_messages_per_second: int | None = None
    key: str | None = None
    """What the commands of a trader show the API."""
    partitions: int = 4
    namespace: str = "ot"
    seed: str = "ordertape"
    profile: str = "assignment"
    speed_ppm: int = _MILLION
    """Simulation speed in millionths; 0: no waiting at all."""
    concurrency: int = 512
    """Orders that one worker process advances at once."""
    venue_concurrency: int = 256
    """Quotes that one process asks of one venue at once."""
    venue_failures_max: int = 5
    """Failures in a row after which a venue is left alone for a while."""
    venue_open_ms: int = 2_000
    """How long it is; then one quote tries whether it has recovered."""
    idempotency_key: Necessity = "optional"
    """Whether a new order needs an idempotency key."""
    queue_max: int = 10_000
    """Unfinished tasks of a partition from which on it takes no new order."""
    client_orders_per_minute: int = 0
    """New orders of one client; 0: any number."""
    orders_per_minute: int = 0
    """New orders of all clients together; 0: any number."""
    quote_timeout_ms: int = 1_000
    task_ms: int = 5_000
    claim_idle_ms: int = 8_000
    archive_seconds: int = 120
    """How long a closed order stays in Redis; at least :data:`ARCHIVE_SECONDS_MIN`."""
    log_window: int = 100_000
    """Positions of each partition's log that stay in Redis behind its end."""
    log_level: LogLevel = "info"

    @property
    def intent(self) -> Level:
        """What a recorded intent must be worth before its swap is sent.

        Where nothing can be promoted over the one server that flushes every write, its disk suffices. Of a configured
        server nobody can tell whether a replica that is away now will be promoted later: then PostgreSQL must have
        the intent, or a loss would let the swap be signed again.
        """
        return self.intent_level or (FSYNC if self.redis_url is None else WITNESSED)


DEFAULTS: Final = Settings()


class SettingsError(Exception):
    """One or more settings are refused; each of ``problems`` names a setting and says what would be valid."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


_SERVER_NAMES: Final = (
    "REDIS_URL",
    "REDIS_HOST",
    "REDIS_PORT",
    "REDIS_USERNAME",
    "REDIS_PASSWORD",
    "CHAIN_REDIS_URL",
    "DATABASE_URL",
    "PG_HOST",
    "PG_PORT",
    "PG_USER",
    "PG_PASSWORD",
    "PG_DB",
    "ACK_LEVEL",
    "INTENT_LEVEL",
    "HOST",
    "PORT",
)
_OWN_NAMES: Final = tuple(
    PREFIX + name
    for name in (
        "DATA_DIR",
        "AUTH",
        "ALLOWED_ORIGINS",
        "REQUESTS_PER_SECOND",
        "KEY_CONNECTIONS",
        "ADDRESS_CONNECTIONS",
        "SOCKET_MESSAGES_PER_SECOND",
        "KEY",
        "PARTITIONS",
        "NAMESPACE",
        "SEED",
        "PROFILE",
        "SPEED",
        "CONCURRENCY",
        "VENUE_CONCURRENCY",
        "VENUE_FAILURES_MAX",
        "VENUE_OPEN_MS",
        "IDEMPOTENCY_KEY",
        "QUEUE_MAX",
        "CLIENT_ORDERS_PER_MINUTE",
        "ORDERS_PER_MINUTE",
        "QUOTE_TIMEOUT_MS",
        "TASK_MS",
        "CLAIM_IDLE_MS",
        "STORE_EPOCH",
        "ARCHIVE_SECONDS",
        "LOG_WINDOW",
        "LOG_LEVEL",
    )
)
NAMES: Final = _SERVER_NAMES + _OWN_NAMES
"""Every setting there is; ``docs/settings.md`` explains each."""


def load_settings(environ: Mapping[str, str], dotenv: Path | None = None) -> Settings:
    """Return the settings that ``environ`` and the file ``dotenv`` make; the environment wins.

    Raises:
        SettingsError: naming every setting that is unknown, malformed or at odds with another.
    """
    from_file = {name: value for name, value in (dotenv_values(dotenv) if dotenv else {}).items() if value is not None}
    problems = _unknown(from_file, environ)
    given = {name: value for name, value in {**from_file, **environ}.items() if name in NAMES and value != ""}
    reader = _Reader(given, problems)
    settings = Settings(
        redis_url=_redis_url(reader),
        database_url=_database_url(reader),
        chain_redis_url=reader.read("CHAIN_REDIS_URL", _redis_text, None),
        data_dir=reader.read(PREFIX + "DATA_DIR", str, DEFAULTS.data_dir),
        ack_level=reader.read("ACK_LEVEL", _level, DEFAULTS.ack_level),
        intent_level=reader.read("INTENT_LEVEL", _level, None),
        store_epoch=reader.read(PREFIX + "STORE_EPOCH", _whole(1, 2**53 - 1), None),
        host=reader.read("HOST", str, DEFAULTS.host),
        port=reader.read("PORT", _whole(0, 65_535), DEFAULTS.port),
        auth=reader.read(PREFIX + "AUTH", _auth, DEFAULTS.auth),
        allowed_origins=reader.read(PREFIX + "ALLOWED_ORIGINS", _origins, DEFAULTS.allowed_origins),
        requests_per_second=reader.read(PREFIX + "REQUESTS_PER_SECOND", _whole(0, RATE_MAX), None),
        key_connections=reader.read(PREFIX + "KEY_CONNECTIONS", _whole(0, RATE_MAX), None),
        address_connections=reader.read(PREFIX + "ADDRESS_CONNECTIONS", _whole(0, RATE_MAX), None),
        socket_messages_per_second=reader.read(PREFIX + "SOCKET_MESSAGES_PER_SECOND", _whole(0, RATE_MAX), None),
        key=reader.read(PREFIX + "KEY", _key, None),
        partitions=reader.read(PREFIX + "PARTITIONS", _whole(1, 100), DEFAULTS.partitions),
        namespace=reader.read(PREFIX + "NAMESPACE", _namespace, DEFAULTS.namespace),
        seed=reader.read(PREFIX + "SEED", str, DEFAULTS.seed),
        profile=reader.read(PREFIX + "PROFILE", _profile, DEFAULTS.profile),
        speed_ppm=reader.read(PREFIX + "SPEED", _speed, DEFAULTS.speed_ppm),
        concurrency=reader.read(PREFIX + "CONCURRENCY", _whole(1, 10_000), DEFAULTS.concurrency),
        venue_concurrency=reader.read(PREFIX + "VENUE_CONCURRENCY", _whole(1, 10_000), DEFAULTS.venue_concurrency),
        venue_failures_max=reader.read(PREFIX + "VENUE_FAILURES_MAX", _whole(1, 10_000), DEFAULTS.venue_failures_max),
        venue_open_ms=reader.read(PREFIX + "VENUE_OPEN_MS", _whole(1, 600_000), DEFAULTS.venue_open_ms),
        idempotency_key=reader.read(PREFIX + "IDEMPOTENCY_KEY", _necessity, DEFAULTS.idempotency_key),
        queue_max=reader.read(PREFIX + "QUEUE_MAX", _whole(1, 10**9), DEFAULTS.queue_max),
        client_orders_per_minute=reader.read(
            PREFIX + "CLIENT_ORDERS_PER_MINUTE", _whole(0, RATE_MAX), DEFAULTS.client_orders_per_minute
        ),
        orders_per_minute=reader.read(PREFIX + "ORDERS_PER_MINUTE", _whole(0, RATE_MAX), DEFAULTS.orders_per_minute),
        quote_timeout_ms=reader.read(PREFIX + "QUOTE_TIMEOUT_MS", _whole(1, 60_000), DEFAULTS.quote_timeout_ms),
        task_ms=reader.read(PREFIX + "TASK_MS", _whole(100, 600_000), DEFAULTS.task_ms),
        claim_idle_ms=reader.read(PREFIX + "CLAIM_IDLE_MS", _whole(100, 600_000), DEFAULTS.claim_idle_ms),
        archive_seconds=reader.read(
            PREFIX + "ARCHIVE_SECONDS", _whole(ARCHIVE_SECONDS_MIN, 10**9), DEFAULTS.archive_seconds
        ),
        log_window=reader.read(PREFIX + "LOG_WINDOW", _whole(0, 10**12), DEFAULTS.log_window),
        log_level=reader.read(PREFIX + "LOG_LEVEL", _log_level, DEFAULTS.log_level),
    )
    problems += _inconsistent(settings)
    if problems:
        raise SettingsError(problems)
    return settings


class _Reader:
    """Converts given texts; a refused one becomes a problem and leaves the default in place."""

    def __init__(self, given: Mapping[str, str], problems: list[str]) -> None:
        self.given = given
        self.problems = problems

    def read(self, name: str, convert: Callable[[str], _T], default: _T) -> _T:
        text = self.given.get(name)
        if text is None:
            return default
        try:
            return convert(text)
        except ValueError as error:
            self.problems.append(f"{name} {error}")
            return default


def _unknown(from_file: Mapping[str, str], environ: Mapping[str, str]) -> list[str]:
    suspects = [*from_file, *(name for name in environ if name.startswith(PREFIX))]
    problems = []
    for name in dict.fromkeys(suspects):
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]}?" if near else "known are: " + ", ".join(NAMES)
            problems.append(f"{name} is not a setting of OrderTape; {hint}")
    return problems


def _inconsistent(settings: Settings) -> list[str]:
    problems = []
    if settings.quote_timeout_ms >= settings.task_ms:
        problems.append(
            f"{PREFIX}QUOTE_TIMEOUT_MS ({settings.quote_timeout_ms}) must be below {PREFIX}TASK_MS ({settings.task_ms})"
        )
    if settings.task_ms >= settings.claim_idle_ms:
        problems.append(
            f"{PREFIX}TASK_MS ({settings.task_ms}) must be below {PREFIX}CLAIM_IDLE_MS ({settings.claim_idle_ms}): "
            "a task must end before another worker may claim it"
        )
    return problems


def _redis_url(reader: _Reader) -> str | None:
    parts = [name for name in ("REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_PASSWORD") if name in reader.given]
    if "REDIS_URL" in reader.given:
        if parts:
            reader.problems.append(f"REDIS_URL and {parts[0]} exclude each other: set one of them")
        return reader.read("REDIS_URL", _redis_text, None)
    if not parts:
        return None
    host = reader.read("REDIS_HOST", str, "localhost")
    port = reader.read("REDIS_PORT", _whole(1, 65_535), 6379)
    user = quote(reader.given.get("REDIS_USERNAME", ""), safe="")
    password = quote(reader.given.get("REDIS_PASSWORD", ""), safe="")
    login = f"{user}:{password}@" if user or password else ""
    return f"redis://{login}{host}:{port}/0"


def _database_url(reader: _Reader) -> str | None:
    parts = [name for name in ("PG_HOST", "PG_PORT", "PG_USER", "PG_PASSWORD", "PG_DB") if name in reader.given]
    if "DATABASE_URL" in reader.given:
        if parts:
            reader.problems.append(f"DATABASE_URL and {parts[0]} exclude each other: set one of them")
        return reader.read("DATABASE_URL", _database_text, None)
    if not parts:
        return None
    host = reader.read("PG_HOST", str, "localhost")
    port = reader.read("PG_PORT", _whole(1, 65_535), 5432)
    user = quote(reader.given.get("PG_USER", "postgres"), safe="")
    password = quote(reader.given.get("PG_PASSWORD", ""), safe="")
    login = f"{user}:{password}" if password else user
    return f"postgresql+psycopg://{login}@{host}:{port}/{quote(reader.given.get('PG_DB', 'ordertape'), safe='')}"


def _redis_text(text: str) -> str:
    if urlsplit(text).scheme not in {"redis", "rediss", "unix"}:
        raise ValueError("must be a redis://, rediss:// or unix:// address")
    return text


def _database_text(text: str) -> str:
    scheme, separator, rest = text.partition("://")
    if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg"}:
        raise ValueError("must be a postgresql:// address")
    return f"postgresql+psycopg://{rest}"


def _level(text: str) -> Level:
    try:
        return Level.parse(text)
    except BadLevelError as error:
        raise ValueError(str(error)) from None


def _log_level(text: str) -> LogLevel:
    match text:
        case "debug" | "info" | "warning" | "error":
            return text
        case _:
            raise ValueError(f"must be debug, info, warning or error, not {text!r}")


def _necessity(text: str) -> Necessity:
    match text:
        case "optional" | "required":
            return text
        case _:
            raise ValueError(f"must be optional or required, not {text!r}")


def _auth(text: str) -> Auth:
    match text:
        case "open" | "keys":
            return text
        case _:
            raise ValueError(f"must be open or keys, not {text!r}")


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(dict.fromkeys(origin.strip().lower() for origin in text.split(",")))
    for origin in origins:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}" or not parts.netloc:
            raise ValueError(f"must be origins with commas between them, such as https://desk.example, not {origin!r}")
    return origins


def _key(text: str) -> str:
    if not (text.startswith("otk_") and text.isascii() and text.isprintable()):
        # Not repeated here: it may be a secret all the same.
        raise ValueError("must be a key as ordertape keys create prints it, otk_…")
    return text


def _profile(text: str) -> str:
    if text not in PROFILES:
        raise ValueError(f"must be {', '.join(PROFILES[:-1])} or {PROFILES[-1]}, not {text!r}")
    return text


def _namespace(text: str) -> str:
    if not (text.isascii() and text.isalnum() and len(text) <= 32):
        raise ValueError("must be 1 to 32 ASCII letters and digits")
    return text


def _speed(text: str) -> int:
    whole, _, fraction = text.partition(".")
    digits = whole + fraction
    if not (digits.isascii() and digits.isdigit() and whole and len(fraction) <= 6 and len(whole) <= 4):
        raise ValueError('must be a decimal from 0 to 9999.999999 such as "1" or "0.5"; 0 means no waiting')
    return int(whole) * _MILLION + int(fraction.ljust(6, "0") or "0")


def _whole(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not (text.isascii() and text.isdigit() and least <= int(text[:12]) <= most):
            raise ValueError(f"must be a whole number from {least} to {most}, not {text!r}")
        return int(text)

    return convert
