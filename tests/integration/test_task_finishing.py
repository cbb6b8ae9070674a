"""A connection that is lost while a task is finished leaves no task that nobody is ever handed."""

import asyncio
import uuid

import pytest

from eventstore.errors import ConnectionLostError
from eventstore.redis.opening import StoreSettings
from eventstore.redis.store import RedisEventStore
from eventstore.store import Task
from tests.builders import stream_id, with_task
from tests.servers.proxy import Fault, Proxy


async def _finish_through(proxy: Proxy, fault: Fault) -> tuple[int, int]:
    """Finish a task while ``fault`` strikes; return how many tasks are left, and how many of them can be claimed."""
    namespace = f"t{uuid.uuid4().hex[:12]}"
    store = await RedisEventStore.open(proxy.url, StoreSettings(namespace=namespace), new_store_id=namespace)
    try:
        await store.append(with_task(stream_id()))
        (task,) = await store.take_tasks("worker", 1)
        # The server knows the scripts by then.
        await store.finish_task(Task(task.stream, task.kind, task.partition, "0-1"))
        strike = {"drop_request": proxy.drop_request, "drop_reply": proxy.drop_reply}[fault]
        strike(1, containing=task.id.encode())
        with pytest.raises(ConnectionLostError):
            await store.finish_task(task)
        proxy.calm()
        claimed = await store.claim_tasks("another", 0, 10)
        return sum(part.tasks for part in await store.status()), len(claimed)
    finally:
        await store.close()


@pytest.mark.parametrize(("fault", "left"), [("drop_request", 1), ("drop_reply", 0)])
def test_a_task_whose_finishing_was_cut_off_is_gone_or_can_be_claimed(fault: Fault, left: int, redis_url: str) -> None:
    with Proxy(redis_url) as proxy:
        assert asyncio.run(_finish_through(proxy, fault)) == (left, left)
