"""The errors of the order domain."""


class OrderError(Exception):
    """Base of every error that the order domain raises on purpose."""


class AmountError(OrderError):
    """An amount is not acceptable; ``code`` says how (syntax, precision, overflow, zero), ``message`` what would be."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class UndefinedTransitionError(OrderError):
    """A stream holds an event that its state cannot take: the history is damaged or newer than this code.

    Stop work on the order and run ``ordertape audit verify``.
    """

    def __init__(self, state: str, event: str) -> None:
        super().__init__(f"{event} cannot follow the state {state}")
        self.state = state
        self.event = event


class UnknownEventTypeError(OrderError):
    """An event's ``meta.type`` or ``meta.schema`` is unknown to this code: run the version that wrote it."""

    def __init__(self, event_type: str, schema: int) -> None:
        super().__init__(f"unknown event type {event_type!r}, schema {schema}")
        self.event_type = event_type
        self.schema = schema
