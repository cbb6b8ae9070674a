"""Problems over HTTP and WebSocket: the same members on both, and a page for each type, for people and for programs."""

import asyncio
import re
from html.parser import HTMLParser
from typing import get_args

import pytest

from app.api.problems import PROBLEMS, Code
from app.api.problems.pages import REPEATS
from tests.integration.api import ORDER, Api, connected, hear, memory_store, on_memory, problem, running, say

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


class Page(HTMLParser):
    """The words and tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("href", "src") and value is not None]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_every_type_of_problem_has_a_page_that_says_what_the_table_does() -> None:
    async def scenario(api: Api) -> None:
        listed = (await api.http.get("/problems")).json()["problems"]
        assert [page["code"] for page in listed] == list(get_args(Code))
        for page in listed:
            known = PROBLEMS[page["code"]]
            assert page["type"] == f"/problems/{page['code']}"
            assert (await api.http.get(page["type"])).json() == page
            assert (page["status"], page["title"], page["repeat"]) == (known.status.value, known.title, known.repeat)
            response = await api.http.get(page["type"], headers=BROWSER)
            assert response.headers["content-type"] == "text/html; charset=utf-8"
            shown = Page(response.text)
            for text in (known.title, known.meaning, known.cause, known.remedy, REPEATS[known.repeat], page["code"]):
                assert text in shown.words
            assert not {"script", "link", "img", "style", "iframe"} & set(shown.tags)
            assert shown.links == ["/problems"]

    on_memory(scenario)


def test_the_list_of_problems_leads_a_browser_to_every_page() -> None:
    async def scenario(api: Api) -> None:
        response = await api.http.get("/problems", headers=BROWSER)
        assert Page(response.text).links == [f"/problems/{code}" for code in get_args(Code)]
        assert (response.headers["vary"], response.headers["cache-control"]) == ("Accept", "public, max-age=3600")
        for accept in ("application/json", "*/*", "application/problem+json", ""):
            plain = await api.http.get("/problems", headers={"Accept": accept})
            assert plain.headers["content-type"] == "application/json"
        problem(await api.http.get("/problems/nonsense"), 404, "route_not_found")

    on_memory(scenario)


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/orders/x", "order_id_malformed"),
        ("/api/orders?limit=0", "invalid_query"),
        ("/nowhere", "route_not_found"),
        ("/api/orders/ws", "upgrade_required"),
        ("/api/orders", "unavailable"),
    ],
)
def test_a_problem_links_to_its_page(path: str, code: Code) -> None:
    async def scenario(api: Api) -> None:
        response = await api.http.get(path)
        body = problem(response, PROBLEMS[code].status.value, code)
        assert body["title"] == PROBLEMS[code].title
        found = re.fullmatch(r'<(.+)>; rel="describedby"; type="text/html"', response.headers["link"])
        assert found is not None and found[1] == body["type"]
        assert (await api.http.get(found[1])).json()["code"] == code

    on_memory(scenario)


def test_a_socket_is_told_the_members_that_an_http_client_is() -> None:
    async def main() -> None:
        async with running(memory_store()) as api, connected(api) as socket:
            wrong = {**ORDER, "amount": -1}
            told = problem(await api.http.post("/api/orders", json=wrong), 400, "invalid_order")
            await say(socket, **wrong)
            heard = await hear(socket)
            assert heard == {
                "type": "error",
                **{name: told[name] for name in ("code", "message", "errors")},
                "problem": {name: told[name] for name in ("type", "title", "status", "detail")},
            }
            # Whoever shows an order's status takes it from here: a number would be none.
            assert "status" not in heard

    asyncio.run(main())
