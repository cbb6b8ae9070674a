"""The scanner and launches: a sniper order fires when its token trades and its fee is low enough."""

import asyncio

from app.dex.pools.launches import first_slot_under
from app.orders.events import Trigger
from tests.property.resting import LAUNCH, PARTITION, World, sniper


def test_an_order_that_rests_after_the_launch_fires_at_a_later_slot_than_it_looked_at() -> None:
    async def scenario() -> None:
        world = World()
        order_id = await world.rest(Trigger(pair="NEW3/SOL", when="launched", level=2, number=3), LAUNCH + 5)
        assert await world.scanner().scan(PARTITION, LAUNCH + 5) == 0
        assert await world.scanner().scan(PARTITION, LAUNCH + 6) == 1
        (fired,) = await world.fired(order_id)
        assert (fired.slot, fired.observed) == (LAUNCH + 6, 6)

    asyncio.run(scenario())


def test_a_sniper_fires_when_its_fee_is_low_enough_and_not_before() -> None:
    async def scenario() -> None:
        world = World()
        level = first_slot_under(2_500)
        assert level is not None
        task = await world.place(sniper(2_500))
        await world.process(world.store).advance(task)
        assert await world.scanner().scan(PARTITION, LAUNCH + level - 1) == 0
        assert await world.scanner().scan(PARTITION, LAUNCH + level) == 1
        (fired,) = await world.fired(task.stream)
        assert (fired.slot, fired.observed, fired.launch_slot) == (LAUNCH + level, level, LAUNCH)

    asyncio.run(scenario())
