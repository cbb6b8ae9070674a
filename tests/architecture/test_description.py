"""The description is valid, tied to the code that it describes, and complete."""

import ast
import json
import re
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import jsonschema_rs
import pytest
from openapi_spec_validator import validate
from starlette.routing import Route, WebSocketRoute

from app.api.access.doors import PUBLIC, PUBLIC_BELOW, AccessPolicy
from app.api.application import Services, create_application
from app.api.description.answers import Facts
from app.api.description.commands import COMMANDS
from app.api.description.documents.asyncapi import CLOSINGS
from app.api.description.documents.events import FRAME, PUBLIC_NAMES
from app.api.description.documents.members import MEMBERS
from app.api.description.documents.openapi import shown_path
from app.api.description.examples import CLIENT_EXAMPLES, ORDERS, SERVER_EXAMPLES
from app.api.description.operations import GATE, KEY_GATE
from app.api.description.order import ALIASES, OTHER_UNITS, canonical_fields
from app.api.description.page.document import page_of, policy
from app.api.description.parameters import QUERY
from app.api.description.table import OPERATIONS
from app.api.orders.request import ORDER_FIELDS, SIDE_FIELDS, SWAP_FIELDS, read_order
from app.api.orders.slippage import BARE_NAMES, BPS_NAMES, PERCENT_NAMES
from app.api.problems import Code, ProblemError
from app.api.requests import parse_object
from app.api.streaming.messages import Message, Submit, message_id, read_message
from app.api.streaming.ring import frame_of
from app.clock import SystemClock
from app.execution.streams import OrderStreams
from app.orders.codec import Origin, to_frame
from app.orders.lifecycle import public_names
from eventstore.canonical import seal
from eventstore.ids import Cursor
from projections.database import create_database_engine
from tests.builders import EVERY_EVENT, stream_id
from tests.clocks import START_US
from tests.descriptions import ASYNCAPI, CLOSED_OPENAPI, OPENAPI, faults, faults_of_all, name_of
from tests.integration.api import NOWHERE, memory_store

ROOT = Path(__file__).parents[2]
API = ROOT / "app" / "api"


def routes() -> list[Any]:
    """The routes of the application, as it is served."""
    store, clock = memory_store(), SystemClock()
    services = Services(
        store=store,
        streams=OrderStreams(store, clock, lambda count: bytes(count), "test"),
        database=create_database_engine(NOWHERE, application_name="test"),
        clock=clock,
        version="0.0.test",
        access=AccessPolicy(mode="keys"),
    )
    return create_application(services).routes


def test_the_openapi_document_is_valid() -> None:
    validate(OPENAPI)


def test_the_asyncapi_document_is_valid() -> None:
    schema = json.loads((ROOT / "tests/architecture/asyncapi-3.0.0.json").read_text(encoding="utf-8"))
    errors = [error.message for error in jsonschema_rs.Draft7Validator(schema).iter_errors(ASYNCAPI)]
    assert errors == []


def test_references_of_the_documents_lead_somewhere() -> None:
    for document in (OPENAPI, ASYNCAPI):
        for found in set(re.findall(r'"\$ref": "#/([^"]+)"', json.dumps(document))):
            place = document
            for step in found.split("/"):
                place = place[step]


def test_every_route_is_described_and_every_described_operation_has_a_route() -> None:
    served = {
        (method, shown_path(route.path))
        for route in routes()
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    described = {(method.upper(), path) for path, methods in OPENAPI["paths"].items() for method in methods}
    assert described == served
    assert len(OPERATIONS) + sum(len(one.also) for one in OPERATIONS) == len(described)


def test_every_path_of_the_websocket_is_described() -> None:
    served = {shown_path(route.path) for route in routes() if isinstance(route, WebSocketRoute)}
    described = {channel["address"] for channel in ASYNCAPI["channels"].values() if "bindings" in channel}
    assert described == served


def test_routes_are_of_the_two_kinds_that_are_described() -> None:
    assert {type(route) for route in routes()} == {Route, WebSocketRoute}


def test_the_operations_that_need_no_key_are_those_that_everybody_is_answered() -> None:
    paths = {path for one in OPERATIONS if one.public for path in (one.path, *one.also)}
    assert {path for path in paths if path not in PUBLIC} == {"/problems/{code}"}
    guarded = {path for one in OPERATIONS if not one.public for path in (one.path, *one.also)}
    assert not guarded & PUBLIC
    assert not [path for path in guarded if path.startswith(PUBLIC_BELOW)]


def test_path_parameters_are_described() -> None:
    for path, methods in OPENAPI["paths"].items():
        named = set(re.findall(r"{(\w+)}", path))
        for operation in methods.values():
            assert {one["name"] for one in operation.get("parameters", ()) if one["in"] == "path"} == named


def test_operations_have_unique_names_and_links_lead_to_them() -> None:
    operations = [operation for methods in OPENAPI["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(names) == len(set(names))
    links = {
        link["operationId"]
        for one in operations
        for answer in one["responses"].values()
        for link in answer.get("links", {}).values()
    }
    assert links and links <= set(names)


def test_every_parameter_and_member_that_is_explained_is_used() -> None:
    used = {parameter.name for operation in OPERATIONS for parameter in operation.parameters()}
    assert set(QUERY) <= used
    text = json.dumps([OPENAPI, ASYNCAPI])
    assert [name for name in MEMBERS if f'"{name}": {{' not in text] == []


def test_queries_are_read_only_where_their_parameters_are_checked() -> None:
    reading = {
        str(path.relative_to(API)) for path in API.rglob("*.py") if ".query_params" in path.read_text(encoding="utf-8")
    }
    assert reading == {"orders/listing.py", "requests.py", "streaming/eventstream.py", "streaming/websocket.py"}


SOCKET_ONLY = {
    *("already_subscribed", "binary_frame", "not_subscribed", "too_many_subscriptions"),
}
ANY_ROUTE = {"internal", "method_not_allowed"}


def test_every_problem_is_answered_by_some_operation() -> None:
    answered = {code for operation in OPERATIONS for code in operation.problems} | {*GATE, *KEY_GATE}
    assert set(get_args(Code)) - answered == SOCKET_ONLY | ANY_ROUTE


def test_every_fact_that_a_problem_states_is_described() -> None:
    stated = {
        keyword.arg
        for path in API.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "ProblemError"
        for keyword in node.keywords
        if keyword.arg is not None
    }
    described = {
        "".join((first, *map(str.capitalize, rest)))
        for first, *rest in (name.split("_") for name in Facts.__struct_fields__)
    }
    assert stated <= described
    assert described - stated == {"sub", "clientId", "scope"}


def test_public_names_of_events_are_those_of_the_lifecycle() -> None:
    found: dict[str, set[tuple[str, str]]] = {}
    for event in EVERY_EVENT:
        found.setdefault(type(event).__name__, set()).add(public_names(event))
    assert {name: set(names) for name, names in PUBLIC_NAMES.items()} == found


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: public_names(event)[0])
@pytest.mark.parametrize("client", ["user01", None])
def test_every_event_is_as_described(event: Any, client: str | None) -> None:
    order_id = stream_id()
    origin = Origin(actor="api", client=client, command="c1")
    frame = to_frame(event, order_id=order_id, seq=1, at="2026-11-21T00:00:00.000000Z", origin=origin)
    sealed = seal(frame, "")
    text = frame_of(order_id, 1, sealed.data, Cursor(1, 1, sealed.hash[:8])).text
    assert faults("event", json.loads(text)) == []
    schema = {"$ref": f"#/components/schemas/{FRAME}", "components": CLOSED_OPENAPI["components"]}
    assert jsonschema_rs.Draft202012Validator(schema, validate_formats=True).is_valid(json.loads(text))


def test_orders_are_described_with_every_field_and_every_spelling() -> None:
    others = {name for names in (*ALIASES.values(), *OTHER_UNITS.values()) for name in names}
    taken = {*ORDER_FIELDS, *SIDE_FIELDS, *SWAP_FIELDS, *BPS_NAMES, *PERCENT_NAMES, *BARE_NAMES}
    assert canonical_fields() | others == taken
    assert not canonical_fields() & others


@pytest.mark.parametrize("name", ALIASES)
def test_other_spellings_mean_the_same(name: str) -> None:
    values = {"slippageBps": 70, "clientId": "c", "idempotencyKey": "k", "orderType": "limit", "timeInForce": "IOC"}
    order: dict[str, Any] = {**ORDERS["limit"], "side": "buy", "idempotencyKey": "k", **values}
    if name in ("amount", "tokenIn", "tokenOut"):
        order = {**ORDERS["sniper"], "idempotencyKey": "k"}
    written = read_order(_as_read(order), now_us=START_US)
    for other in ALIASES[name]:
        spelled = {(other if key == name else key): value for key, value in order.items()}
        assert other in spelled
        assert read_order(_as_read(spelled), now_us=START_US) == written


def _as_read(order: dict[str, Any]) -> dict[str, Any]:
    return parse_object(json.dumps(order))


@pytest.mark.parametrize("kind", ORDERS)
def test_example_orders_are_taken_and_are_as_described(kind: str) -> None:
    assert read_order(_as_read(ORDERS[kind]), now_us=START_US).command.order_type == kind
    schema = {"$ref": f"#/components/schemas/{kind.capitalize()}Order", "components": CLOSED_OPENAPI["components"]}
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(ORDERS[kind])


def test_every_example_of_a_client_is_understood_and_as_described() -> None:
    for example in CLIENT_EXAMPLES:
        members = _as_read(example)
        said = read_message(members, now_us=START_US)
        assert message_id(members) == members.get("id")
        assert faults(str(example.get("type", "order")), example) == [], example
        assert isinstance(said, Submit) == ("type" not in example)
    assert {type(read_message(_as_read(example), now_us=START_US)) for example in CLIENT_EXAMPLES} == set(
        get_args(Message)
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_are_described_with_exactly_the_members_that_are_taken(name: str) -> None:
    example = next(one for one in CLIENT_EXAMPLES if one.get("type") == name and (name != "subscribe" or "sub" in one))
    with pytest.raises(ProblemError) as refused:
        read_message(_as_read({**example, "XXXXXXXXXX": 1}), now_us=START_US)
    accepted = refused.value.detail.split("accepted are ")[1].split("; ")[0].split(", ")
    schema = ASYNCAPI["components"]["schemas"][COMMANDS[name].__name__]
    assert set(accepted) == set(schema["properties"])


def test_every_example_of_the_server_is_as_described() -> None:
    assert faults_of_all(SERVER_EXAMPLES) == []
    asked = {*COMMANDS, "order"}
    said = {name for name in ASYNCAPI["components"]["messages"] if not name.startswith("stream_")} - asked
    assert {name_of(example) for example in SERVER_EXAMPLES} == said


@pytest.mark.parametrize(
    ("heading", "examples"), [("Client to server", CLIENT_EXAMPLES), ("Server to client", SERVER_EXAMPLES)]
)
def test_the_protocol_page_shows_the_examples(heading: str, examples: tuple[dict[str, Any], ...]) -> None:
    text = (ROOT / "docs" / "protocol.md").read_text(encoding="utf-8")
    block = text[text.index(f"### {heading}") :].split("```json\n")[1].split("```")[0]
    written = "".join(json.dumps(example, separators=(",", ":"), ensure_ascii=False) + "\n" for example in examples)
    assert block == written


def test_every_close_code_of_the_server_is_described() -> None:
    defined = {
        (node.args[0].value)
        for path in API.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Closing"
        and isinstance(node.args[0], ast.Constant)
    }
    # A client that left needs no code.
    assert defined - {1001} == {closing.code for closing in CLOSINGS}


class Anchors(HTMLParser):
    """The anchors, the links and everything else that a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.add(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.links += [value for name, value in attrs if name == "href" and value and tag == "a"]
        self.loaded += [
            f"{tag} {name}" for name in given if name in ("src", "style", "srcset") or name.startswith("on")
        ]


def test_the_page_has_an_anchor_for_each_link_and_loads_nothing() -> None:
    page = Anchors()
    page.feed(page_of(OPENAPI, ASYNCAPI))
    assert len(page.ids) == len(set(page.ids))
    inside = {link.removeprefix("#") for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    assert {link for link in page.links if not link.startswith("#")} == {"/api/openapi.json", "/api/asyncapi.json"}
    assert page.loaded == []
    assert not page.tags & {"script", "link", "img", "iframe", "object", "form", "base"}
    names = {operation["operationId"] for methods in OPENAPI["paths"].values() for operation in methods.values()}
    assert {f"operation-{name}" for name in names} <= set(page.ids)
    assert {f"message-{name}" for name in ASYNCAPI["components"]["messages"]} <= set(page.ids)


def test_what_a_document_says_is_text_on_the_page() -> None:
    document = deepcopy(OPENAPI)
    document["paths"]["/livez"]["get"] |= {"summary": "<i>summary</i>", "description": "<u>described</u>"}
    page = page_of(document, ASYNCAPI)
    assert "&lt;i&gt;summary&lt;/i&gt;." in page and "<i>" not in page
    assert "&lt;u&gt;described&lt;/u&gt;" in page and "<u>" not in page


def test_members_without_a_value_are_described_as_absent_and_others_as_null() -> None:
    schemas = OPENAPI["components"]["schemas"]
    assert {"type": "null"} not in schemas["OrderView"]["properties"]["txId"].get("anyOf", ())
    assert "txId" not in schemas["OrderView"]["required"]
    assert {"type": "null"} in schemas["AsOf"]["properties"]["lagMs"]["anyOf"]
    assert "lagMs" in schemas["AsOf"]["required"]


def test_the_page_lets_nothing_in_but_its_own_style() -> None:
    assert re.fullmatch(
        r"default-src 'none'; style-src 'sha256-[A-Za-z0-9+/]{43}='; "
        r"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        policy(),
    )
