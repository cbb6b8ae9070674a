"""The errors of the audit: reasons why it cannot be carried out, never what it found."""


class AuditError(Exception):
    """Base of every error that the audit raises on purpose."""


class OrderNotFoundError(AuditError):
    """The store holds no event of this order: correct the id, or the settings that name the store."""

    def __init__(self, order_id: str) -> None:
        super().__init__(f"the event store holds no order {order_id}")
        self.order_id = order_id


class BeyondEndError(AuditError):
    """The order does not have that many events; ``version`` is its last one."""

    def __init__(self, order_id: str, seq: int, version: int) -> None:
        super().__init__(f"order {order_id} ends at seq {version}: there is no seq {seq} yet")
        self.order_id = order_id
        self.seq = seq
        self.version = version
