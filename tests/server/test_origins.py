"""Which web pages a server lets in that needs no key."""

import httpx
import pytest

from server.errors import Forbidden
from server.keys import KeyRing
from server.origins import check_host, check_origin, read_origins
from server.service import Service
from server.settings import Settings, SettingsError
from tests.server.serving import altered, ask_body, check_problem, client_of, served

KEY = "a-key-of-the-first-studio"


def test_origins_are_read_whatever_stands_around_them() -> None:
    given = " https://a.example, https://B.example:8443 ,,app://game\n"
    found = read_origins(Settings(cors_origins=given))
    assert found == ("https://a.example", "https://b.example:8443", "app://game")
    assert read_origins(Settings()) == ()
    assert read_origins(Settings(cors_origins=" * ")) == ("*",)


@pytest.mark.parametrize(
    "given",
    [
        "a.example",
        "https://a.example/",
        "https://a.example/game",
        "https://*.example",
        "https://a.example https://b.example",
        "https://",
        "null",
        "https://등대.example",
    ],
)
def test_what_is_no_origin_is_refused(given: str) -> None:
    with pytest.raises(SettingsError, match=r"PERSONA_CORS_ORIGINS: .* is no origin; write scheme"):
        read_origins(Settings(cors_origins=f"https://a.example,{given}"))


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST:8000", "localhost.:8000", "persona.localhost:8000"),
        *("127.0.0.1:8000", "127.8.8.8", "[::1]", "[::1]:8000", ""),
    ],
)
def test_this_machine_has_these_names(host: str) -> None:
    check_host({"host": host})


def test_who_names_no_host_is_no_browser() -> None:
    check_host({})


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evillocalhost",
        "127.0.0.1.evil.example:80",
        "10.0.0.7",
        "[::1",
        ":",
    ],
)
def test_by_another_name_nobody_is_let_in(host: str) -> None:
    with pytest.raises(Forbidden, match=r"set PERSONA_API_KEYS, or PERSONA_AUTH=off"):
        check_host({"host": host})


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:8000", "localhost:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("https://npc.example", "npc.example"),
        ("https://npc.example:8443", "npc.example"),
        ("https://a.example", "localhost:8000"),
    ],
)
def test_pages_of_the_same_host_and_those_named_are_let_in(origin: str, host: str) -> None:
    check_origin({"origin": origin, "host": host}, ["https://a.example"])


def test_our_own_page_is_let_in_behind_what_calls_us_by_another_name() -> None:
    headers = {"origin": "https://tunnel.example", "host": "localhost:8000"}
    check_origin(headers | {"sec-fetch-site": "same-origin"}, [])
    with pytest.raises(Forbidden):
        check_origin(headers | {"sec-fetch-site": "same-site"}, [])


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://127.0.0.1", "null", "", "h://["]
)
@pytest.mark.parametrize("host", ["localhost:8000", "", "["])
def test_other_pages_are_not(origin: str, host: str) -> None:
    with pytest.raises(Forbidden, match="name the origin in PERSONA_CORS_ORIGINS"):
        check_origin({"origin": origin, "host": host}, ["https://a.example"])
    check_origin({"origin": origin, "host": host}, ["*"])


ROUTES = [("POST", "/ask"), ("POST", "/predict_main"), ("GET", "/npcs"), ("GET", "/metrics")]
REBOUND = {"Host": "evil.example"}
CROSS_SITE = {"Origin": "https://evil.example", "Content-Type": "text/plain"}


@pytest.mark.parametrize("headers", [REBOUND, CROSS_SITE], ids=["rebound", "cross-site"])
@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_stranger_of_a_page_asks_a_server_without_keys_in_vain(
    client: httpx.Client, method: str, path: str, headers: dict[str, str]
) -> None:
    check_problem(client.request(method, path, json=ask_body(), headers=headers), 403, "forbidden")


def test_signs_of_life_and_pages_have_no_secret(client: httpx.Client) -> None:
    for path in ("/healthz", "/readyz", "/", "/openapi.json"):
        assert client.get(path, headers=REBOUND | CROSS_SITE).status_code == 200


def test_a_page_that_the_settings_name_and_our_own_may_ask(tiny_service: Service) -> None:
    with served(altered(tiny_service), ["https://game.example"]) as url:
        for origin in ("https://game.example", url):
            asked = httpx.post(f"{url}/ask", json=ask_body(), headers={"Origin": origin})
            assert asked.status_code == 200


def test_with_a_key_any_name_and_page_will_do(tiny_service: Service) -> None:
    service = altered(tiny_service)
    service.keys = KeyRing.of([KEY])
    headers = {"Authorization": f"Bearer {KEY}", **REBOUND, **CROSS_SITE}
    with client_of(service) as client:
        assert client.post("/ask", json=ask_body(), headers=headers).status_code == 200


def test_where_something_else_keeps_watch_any_name_will_do_but_not_any_page(
    tiny_service: Service,
) -> None:
    service = altered(tiny_service)
    service.settings = Settings(host="0.0.0.0", auth="off")
    with client_of(service) as client:
        asked = client.post("/ask", json=ask_body(), headers={"Host": "npc.example"})
        assert asked.status_code == 200
        check_problem(client.post("/ask", json=ask_body(), headers=CROSS_SITE), 403, "forbidden")


def test_the_admin_key_opens_metrics_whatever_the_server_is_called(tiny_service: Service) -> None:
    service = altered(tiny_service)
    service.settings = Settings(admin_key=KEY)
    with client_of(service) as client:
        headers = {"Authorization": f"Bearer {KEY}", **REBOUND}
        assert client.get("/metrics", headers=headers).status_code == 200
