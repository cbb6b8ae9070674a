"""What goes wrong around the embedded servers."""


class EmbeddedError(Exception):
    """The embedded servers cannot be used. The message says what happened and what to do."""
