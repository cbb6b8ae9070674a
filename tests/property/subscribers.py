"""What a subscriber of a test wishes, and what it hears over one connection after another."""

import asyncio
from abc import ABC, abstractmethod
from typing import Any

from msgspec import Struct

from app.api.access.connections import Connections
from app.api.access.entry import Entry
from app.api.access.limits import AccessLimits
from app.api.access.principal import EVERYTHING, Principal

Frame = dict[str, Any]


def unguarded() -> Entry:
    """An entry of somebody who may do everything, as where no keys are asked for."""

    async def recognize(_token: str, _address: str) -> Principal:
        return Principal(EVERYTHING)

    limits = AccessLimits()
    return Entry("", Principal(EVERYTHING), Connections(limits, lambda _: True), limits, recognize)


class Wish(Struct, frozen=True):
    """What a subscriber wants: its scope, a filter, and how it is sent."""

    scope: dict[str, object]
    filter: dict[str, list[str]]
    window: int | None
    batch: int | None

    @property
    def options(self) -> dict[str, object]:
        given = {"window": self.window, "batch": self.batch}
        return {**self.scope, **self.filter, **{name: value for name, value in given.items() if value is not None}}

    def wants(self, event: Frame, assets: tuple[str, ...] = ()) -> bool:
        """Whether a stored event is among those wanted; ``assets`` are its order's."""
        return (
            self.scope.get("orderId", event["orderId"]) == event["orderId"]
            and self.scope.get("clientId", event["meta"]["client"]) == event["meta"]["client"]
            and event["event"] in self.filter.get("events", [event["event"]])
            and event["status"] in self.filter.get("statuses", [event["status"]])
            and ("assets" not in self.filter or not set(assets).isdisjoint(self.filter["assets"]))
        )


class Listener(ABC):
    """Takes note of what one subscription is sent; resumes by ``cursor``."""

    def __init__(self, wish: Wish) -> None:
        self.wish = wish
        self.frames: list[Frame] = []
        self.cursor: str | None = None
        self.errors: list[Frame] = []
        self.ended = False
        self.kinds: set[str] = set()
        self.progress = asyncio.Event()

    @abstractmethod
    def say(self, **members: object) -> None:
        """Send a message."""

    def hear(self, frame: Frame) -> None:
        self.kinds.add(frame.get("type", "event"))
        match frame.get("type"):
            case "error" | "goaway":
                self.errors.append(frame)
            case "events":
                for item in frame["items"]:
                    self.process(item)
            case "caught_up" | "bookmark":
                self.cursor = frame["cursor"]
            case "unsubscribed":
                self.ended = True
            case None:
                self.process(frame)
        self.progress.set()

    def process(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.cursor = frame["cursor"]
        if self.wish.window is not None:
            self.say(type="ack", sub="s", cursor=frame["cursor"])

    async def heard(self, kind: str) -> None:
        while kind not in self.kinds:
            self.progress.clear()
            await self.progress.wait()

    async def has(self, count: int) -> None:
        while len(self.frames) < count:
            self.progress.clear()
            await self.progress.wait()
