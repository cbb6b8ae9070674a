"""The dashboard: orders placed and followed, connections lost and resumed, problems shown where they belong."""

import re

import pytest
from playwright.async_api import Locator, Page, expect

from tests.browser.engine import Browser, Engine

pytestmark = pytest.mark.browser

LIFE = ["pending", "routing", "routing:quotes", "building", "submitted", "confirmed"]


def confirmed(page: Page, order_id: str) -> Locator:
    """The order's card, in the column of those that are confirmed."""
    return page.get_by_role("region", name="Confirmed").locator(f'[data-order="{order_id}"]')


async def timeline(page: Page) -> list[str | None]:
    """The events that the order page shows."""
    return [await entry.get_attribute("data-event") for entry in await page.locator(".timeline li[data-event]").all()]


def test_the_page_loads_without_a_complaint_and_every_field_has_a_name(browser: Browser) -> None:
    async def scenario(engine: Engine, page: Page) -> None:
        response = await page.reload()
        assert response is not None
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; ") and "unsafe" not in policy
        await page.locator("#connection", has_text="live").wait_for()
        for path in ("/", "/dashboard"):
            assert (await engine.api.http.get(path)).headers["content-security-policy"] == policy
        assert await page.title() == "OrderTape"
        nameless = (
            "[...document.querySelectorAll('input, select')].filter(one => !one.labels.length).map(one => one.id)"
        )
        assert await page.evaluate(nameless) == []
        outside = "performance.getEntriesByType('resource').filter(one => !one.name.startsWith(location.origin)).length"
        assert await page.evaluate(outside) == 0

    assert browser.visit(scenario) == []


def test_what_comes_from_elsewhere_is_refused(browser: Browser) -> None:
    async def scenario(engine: Engine, page: Page) -> None:
        await page.evaluate(
            """() => new Promise((resolve) => {
                document.addEventListener("securitypolicyviolation", () => resolve());
                document.body.append(Object.assign(document.createElement("img"), { src: "http://127.0.0.1:1/x.png" }));
            })"""
        )

    [complaint] = browser.visit(scenario)
    assert "Content Security Policy" in complaint


def test_an_order_placed_by_the_form_is_seen_until_it_is_confirmed(browser: Browser) -> None:
    async def scenario(engine: Engine, page: Page) -> None:
        await page.get_by_label("Amount").fill("2.5")
        # By keyboard alone.
        await page.get_by_label("Amount").press("Enter")
        link = page.locator("#placed a")
        order_id = (await link.get_attribute("href") or "").split("/")[-1]
        await confirmed(page, order_id).wait_for()
        await link.focus()
        await link.press("Enter")
        await page.locator('[data-event="confirmed"]').wait_for()
        assert await timeline(page) == await engine.api.events(order_id) == LIFE
        assert await page.locator(".timeline .expected").count() == 0
        await expect(page.locator("#order-title")).to_have_text("buy 2.5 SOL with USDC")

    assert browser.visit(scenario) == []


def test_the_order_page_compares_both_venues_and_goes_back_in_time(browser: Browser) -> None:
    async def scenario(engine: Engine, page: Page) -> None:
        order_id = await engine.api.place()
        await engine.api.ended(order_id)
        events = (await engine.api.http.get(f"/api/orders/{order_id}/events")).json()["events"]
        quotes, route, receipt = events[2]["quotes"], events[3], events[5]["receipt"]
        await page.goto(f"{engine.api.url}/#/orders/{order_id}")
        await page.locator(".receipt").wait_for()
        shown = {
            await row.get_attribute("data-venue"): await row.locator("td").first.text_content()
            for row in await page.locator(".routing tbody tr").all()
        }
        assert shown == {quote["venue"]: quote["amount"] for quote in quotes}
        assert len(shown) == 2
        chosen = page.locator('.routing tr[data-chosen="true"]')
        assert await chosen.get_attribute("data-venue") == route["chosen"]["venue"]
        await expect(page.locator(".verdict")).to_contain_text(f"an edge of {route['edgeBps']} bps")
        await expect(page.locator(".receipt")).to_contain_text(f"{receipt['amountIn']} USDC")
        await page.get_by_label("As of event").fill("3")
        assert await timeline(page) == LIFE[:3]
        assert await page.locator(".timeline .expected .name").all_text_contents() == LIFE[3:]
        await expect(page.locator(".state")).to_contain_text("The order after event 3")
        await expect(page.locator(".receipt")).to_be_hidden()

    assert browser.visit(scenario) == []


def test_a_dropped_connection_is_resumed_with_nothing_lost(browser: Browser) -> None:
    async def scenario(engine: Engine, page: Page) -> None:
        order_id = await engine.api.place(clientId="before")
        await page.goto(f"{engine.api.url}/#/orders/{order_id}")
        await page.get_by_role("button", name="Drop my connection").click()
        await page.locator("#connection", has_text="dropped on purpose").wait_for()
        others = [await engine.api.place(clientId=f"client{number}") for number in range(3)]
        for one in (order_id, *others):
            assert await engine.api.ended(one) == LIFE
        await page.locator(
            "#connection", has_text=re.compile("live · resumed, [1-9][0-9]* events recovered")
        ).wait_for()
        await page.locator('[data-event="confirmed"]').wait_for()
        assert await timeline(page) == LIFE
        await page.get_by_role("link", name="← Board").click()
        for one in (order_id, *others):
            await confirmed(page, one).wait_for()

    assert browser.visit(scenario) == []


def test_a_restart_of_the_server_is_survived_and_what_was_missed_is_counted(browser: Browser) -> None:
    async def scenario(engine: Engine, page: Page) -> None:
        await engine.api.stop()
        await page.locator("#connection", has_text="lost").wait_for()
        missed = [await engine.other.place(clientId="a"), await engine.other.place(clientId="b")]
        count = sum([len(await engine.other.ended(one)) for one in missed])
        await engine.api.start()
        await page.locator("#connection", has_text=f"live · resumed, {count} events recovered").wait_for()
        for one in missed:
            await confirmed(page, one).wait_for()

    assert browser.visit(scenario) == []


def test_problems_are_shown_at_their_fields(browser: Browser) -> None:
    async def scenario(engine: Engine, page: Page) -> None:
        amount = page.get_by_label("Amount")
        await amount.fill("ten")
        await page.get_by_label("Pair").fill("SOL/XYZ")
        await page.get_by_role("button", name="Place the order").click()
        await expect(page.locator("#amount-error")).to_contain_text("must be a plain decimal")
        await expect(page.locator("#pair-error")).to_contain_text("quoteAsset")
        assert await amount.get_attribute("aria-describedby") == "amount-error"
        await amount.fill("1")
        await page.get_by_label("Pair").fill("SOL/USDC")
        await page.get_by_role("button", name="Place the order").click()
        await page.locator("#placed a").wait_for()
        assert await page.locator(".field .error").count() == 0

    assert browser.visit(scenario) == []


def test_with_a_trader_s_key_the_page_shows_that_client_s_orders_and_keeps_the_key_in_the_tab(browser: Browser) -> None:
    async def scenario(engine: Engine, page: Page) -> None:
        key = await engine.key_of("ann")
        async with engine.guarded() as api:
            foreign = await engine.api.place(clientId="sam")
            await page.goto(api.url)
            await page.get_by_label("API key").fill(f"{key[:-1]}x")
            await page.get_by_role("button", name="Use it").click()
            await page.get_by_text("The server does not take this API key.").wait_for()
            await page.get_by_label("API key").fill(key)
            await page.get_by_role("button", name="Use it").click()
            await page.locator("#connection", has_text="live").wait_for()
            await page.get_by_role("button", name="Place the order").click()
            link = page.locator("#placed a")
            await link.wait_for()
            placed = (await link.get_attribute("href") or "").removeprefix("#/orders/")
            await confirmed(page, placed).wait_for()
            assert await page.locator(f'[data-order="{foreign}"]').count() == 0
            await link.click()
            await page.locator('.timeline li[data-event="confirmed"]').wait_for()
            assert await page.evaluate("[Object.values(sessionStorage), localStorage.length]") == [[key], 0]
            await page.goto("about:blank")

    assert browser.visit(scenario) == []
