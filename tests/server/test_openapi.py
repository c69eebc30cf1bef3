"""The OpenAPI document: valid, complete, and what the server really does."""

from collections.abc import Iterator
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from jsonschema_rs import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from rag.documents import FlagDef, ForbiddenTriggerList
from rag.world import load_world
from server.errors import TABLE
from server.http import make_app
from server.openapi import document
from server.openapi_examples import ANSWERS, EVENTS, REQUESTS
from server.operations import OPERATIONS, Operation
from server.schemas import AskRequest, PredictRequest
from server.service import Service
from tests.server.serving import ask_body, read_events

DOCUMENT = document()
ASK = "/ask", "post"
PROMPT = {"prompt": "<SYS> mina <PLAYER> hello <STATE>", "gen_params": {"max_tokens": 4, "seed": 1}}


def closed(schema: Any) -> Any:
    """The schema with every object limited to the properties that it names."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(item) for name, item in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        inner.setdefault("additionalProperties", False)
    return inner


CLOSED = {"components": {"schemas": closed(deepcopy(DOCUMENT["components"]["schemas"]))}}


def check(value: Any, schema: dict[str, Any]) -> None:
    """Hold a value against a schema of the document; what it does not name is an error too."""
    Draft202012Validator({**schema, **CLOSED}).validate(value)


def responses_of(path: str, method: str) -> dict[str, Any]:
    responses: dict[str, Any] = DOCUMENT["paths"][path][method]["responses"]
    return responses


def check_response(response: httpx.Response, path: str, method: str) -> None:
    """Status, media type, headers and body are what the document says."""
    described = responses_of(path, method)[str(response.status_code)]
    media_type = response.headers["content-type"].partition(";")[0]
    assert "X-Request-ID" in response.headers
    for name in ("Idempotency-Replayed", "Retry-After"):
        assert name not in response.headers or name in described["headers"]
    schema = described["content"][media_type]["schema"]
    if media_type == "text/event-stream":
        for event in read_events(response.text):
            data = msgspec.json.encode(event.data).decode()
            check({"event": event.name, "data": data}, schema)
            check(event.data, data_schema(event.name))
    elif media_type.endswith("json"):
        parts = schema.get("allOf", [schema])
        check(response.json(), parts[0])
        for part in parts[1:]:
            Draft202012Validator(part).validate(response.json())


def data_schema(event: str) -> dict[str, Any]:
    """The schema of an event's data, by the event's name."""
    for item in DOCUMENT["components"]["schemas"]["ServerSentEvent"]["oneOf"]:
        if item["properties"]["event"]["const"] == event:
            schema: dict[str, Any] = item["properties"]["data"]["contentSchema"]
            return schema
    raise AssertionError(f"the document has no event {event!r}")


def test_the_document_is_valid_openapi() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_the_document_is_what_the_server_tells(client: httpx.Client) -> None:
    assert client.get("/openapi.json").json() == DOCUMENT


def test_every_route_is_described_and_every_description_has_its_route(
    tiny_service: Service,
) -> None:
    routed = {
        (route.path, method.lower())
        for route in make_app(lambda: nullcontext(tiny_service)).routes
        if isinstance(route, Route) and route.include_in_schema
        for method in set(route.methods or ()) - {"HEAD"}
    }
    described = {(path, method) for path, item in DOCUMENT["paths"].items() for method in item}
    assert described == routed


def test_every_problem_of_the_table_is_told_by_some_route() -> None:
    told = {error for operation in OPERATIONS for error in operation.problems}
    assert told == TABLE.keys()


def test_every_problem_has_the_status_and_code_of_the_table() -> None:
    for operation in OPERATIONS:
        responses = responses_of(operation.path, operation.method)
        for error in operation.problems:
            kind = TABLE[error]
            content = responses[str(kind.status)]["content"]["application/problem+json"]
            assert kind.code in content["schema"]["allOf"][1]["properties"]["code"]["enum"]
            check(content["examples"][kind.code]["value"], content["schema"]["allOf"][0])


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_every_field_is_described(name: str) -> None:
    fields = DOCUMENT["components"]["schemas"][name].get("properties", {})
    assert [field for field, schema in fields.items() if not schema.get("description")] == []


def test_a_field_is_optional_only_where_it_may_be_left_out() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    assert schemas["AskRequest"]["required"] == ["npc_id", "player_id"]
    assert schemas["UsageMeta"]["required"] == list(schemas["UsageMeta"]["properties"])
    assert "truncated" not in schemas["AnswerMeta"]["required"]
    assert schemas["TimingsMeta"]["required"] == []


def examples() -> Iterator[tuple[Any, dict[str, Any]]]:
    """The examples of bodies and answers with their schemas."""
    for operation in OPERATIONS:
        described = DOCUMENT["paths"][operation.path][operation.method]
        body = described.get("requestBody", {}).get("content", {}).get("application/json", {})
        answer = responses_of(operation.path, operation.method)["200"]["content"]
        for content in (body, answer.get("application/json", {})):
            for example in content.get("examples", {}).values():
                yield example["value"], content["schema"]


def test_examples_are_right_bodies_and_answers() -> None:
    held = list(examples())
    assert len(held) >= 10
    for value, schema in held:
        # requests are held against the open schema: `anyOf` there names but a part of the fields
        Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(value)
    for example in REQUESTS["ask"].values():
        msgspec.convert(example["value"], AskRequest)
    for example in REQUESTS["predictMain"].values():
        msgspec.convert(example["value"], PredictRequest)
    for events in EVENTS.values():
        for event in read_events(events["value"]):
            check(event.data, data_schema(event.name))


def test_examples_are_set_in_the_demo_world() -> None:
    world = load_world(Path("worlds/mulmaru"))
    flag_defs = {d.id: d for d in world.documents if isinstance(d, FlagDef)}
    triggers = {d.id for d in world.documents if isinstance(d, ForbiddenTriggerList)}
    for example in REQUESTS["ask"].values():
        persona = world.npcs[example["value"]["npc_id"]]
        game = example["value"].get("context", {}).get("game_state", {})
        assert game.get("quest_stage", persona.stages[0]) in persona.stages
        assert game.get("location", persona.locations[0]) in persona.locations
    answers = [example["value"] for example in ANSWERS["ask"].values()]
    answers += [read_events(example["value"])[-1].data for example in EVENTS.values()]
    for answer in answers:
        meta = answer["meta"]
        assert meta["npc_id"] in world.npcs
        assert meta.get("trigger", next(iter(triggers))) in triggers
        assert answer["flags"].keys() >= meta["flags_detail"].keys()
        for name, detail in meta["flags_detail"].items():
            source = flag_defs[detail["source"]]
            assert (source.flag_name, source.npc_id) == (name, meta["npc_id"])
            if answer["flags"][name]:
                assert detail["value"] == source.value
                assert isinstance(source.text, dict)
                assert detail["text"] in source.text.values()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_answers_are_what_the_document_says(client: httpx.Client, operation: Operation) -> None:
    bodies = {"ask": ask_body(), "predictMain": PROMPT}
    response = client.request(operation.method, operation.path, json=bodies.get(operation.name))
    assert response.status_code == 200, response.text
    check_response(response, operation.path, operation.method)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("precheck_passed", [None, False])
def test_turns_of_every_kind_are_what_the_document_says(
    client: httpx.Client, stream: bool, precheck_passed: bool | None
) -> None:
    history = [{"player": "hi", "npc": "hello"}]
    body = ask_body(
        stream=stream, precheck_passed=precheck_passed, explain=True, dialogue_history=history
    )
    key = {"Idempotency-Key": f"stream {stream} precheck {precheck_passed}"}
    for is_replayed in (False, True):
        response = client.post("/ask", json=body, headers=key)
        assert response.status_code == 200, response.text
        assert ("Idempotency-Replayed" in response.headers) == is_replayed
        check_response(response, *ASK)
    other = client.post("/ask", json=ask_body("something else"), headers=key)
    assert other.status_code == 409
    check_response(other, *ASK)


def test_problems_are_what_the_document_says(client: httpx.Client) -> None:
    wrong = [b"{", b'{"text": 1}', msgspec.json.encode(ask_body(npc_id="nobody"))]
    for body, status in zip(wrong, (400, 422, 404), strict=True):
        response = client.post("/ask", content=body)
        assert response.status_code == status
        check_response(response, *ASK)
