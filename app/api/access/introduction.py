"""The first message of a socket that nobody vouched for: hello with the token of a key, or the end."""

from app.api.access.entry import Entry
from app.api.problems import UNAUTHENTICATED, Closing, ProblemError, closing_of
from app.api.streaming.messages import Hello, MessageId, message_id, read_members, read_message


async def introduced(entry: Entry, text: str | None) -> tuple[Hello, MessageId] | Closing:
    """Take note of who a socket's first message says it is; return that message and its id, or why the socket ends."""
    try:
        members, _ = read_members(text)
        reply_to = message_id(members)
        # Whatever else it asks for is not even looked at.
        said = read_message(members, now_us=0) if members.get("type") == "hello" else None
        if not isinstance(said, Hello) or said.token is None:
            return UNAUTHENTICATED
        return await entry.introduce(said.token) or (said, reply_to)
    except ProblemError as problem:
        return closing_of(problem)


async def confirmed(entry: Entry, token: str) -> Closing | None:
    """Return why a socket ends whose opener is known, and says once more who it is; None if that is the same."""
    try:
        return await entry.introduce(token)
    except ProblemError as problem:
        return closing_of(problem)
