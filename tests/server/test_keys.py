import stat
from pathlib import Path

import httpx
import pytest

from server.errors import Forbidden, Unauthorized
from server.fallback import AuthoredLines
from server.keys import KeyRing, check_admin, is_loopback, read_keys
from server.service import Service
from server.sessions import Sessions
from server.settings import Settings, SettingsError
from tests.server.serving import altered, ask_body, check_problem, client_of, opened

ONE, TWO = "a-key-of-the-first-studio", "a-key-of-the-second-studio"


def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_an_empty_ring_lets_everyone_in() -> None:
    assert KeyRing().owner("") == ""


@pytest.mark.parametrize("key", [ONE, TWO])
def test_any_key_of_the_ring_opens_and_names_its_owner(key: str) -> None:
    ring = KeyRing.of([ONE, TWO])
    owner = ring.owner(f"Bearer {key}")
    assert owner == ring.owner(f"bearer  {key} ")
    assert owner in ring.hashes
    assert key not in repr(ring)


def test_two_keys_have_two_owners() -> None:
    ring = KeyRing.of([ONE, TWO])
    assert ring.owner(f"Bearer {ONE}") != ring.owner(f"Bearer {TWO}")


@pytest.mark.parametrize("given", ["", "Bearer", f"Basic {ONE}", ONE, f"Bearer {ONE}x", "Bearer ☃"])
def test_nothing_else_opens(given: str) -> None:
    with pytest.raises(Unauthorized, match="Authorization: Bearer KEY"):
        KeyRing.of([ONE]).owner(given)


def test_the_admin_key_opens_from_anywhere_and_without_one_only_from_here() -> None:
    check_admin("Bearer secret", "10.0.0.7", "secret")
    check_admin("", "127.0.0.1", None)
    check_admin("", "::1", None)
    for given, host, key in (("", "10.0.0.7", None), ("Bearer other", "127.0.0.1", "secret")):
        with pytest.raises(Forbidden):
            check_admin(given, host, key)


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("engine.example", False),
    ],
)
def test_only_loopback_is_out_of_others_reach(host: str, is_local: bool) -> None:
    assert is_loopback(host) is is_local


def test_keys_come_from_the_environment_and_a_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# the second studio\n{TWO}\n\n")
    ring = read_keys(Settings(api_keys=f"{ONE},", api_keys_file=file))
    assert ring == KeyRing.of([ONE, TWO])


def test_no_key_is_needed_on_loopback_or_where_the_settings_say_so() -> None:
    assert read_keys(Settings()) == KeyRing()
    assert read_keys(Settings(host="0.0.0.0", api_keys=ONE, auth="off")) == KeyRing()


def test_a_server_that_others_can_reach_makes_a_key_and_prints_it_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "cache"))
    settings = Settings(host="0.0.0.0")
    made = read_keys(settings)
    file = tmp_path / "cache" / "api-keys"
    key = file.read_text().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert capsys.readouterr().out.endswith(f"{file}: {key}\n")
    assert made == read_keys(settings) == KeyRing.of([key])
    assert capsys.readouterr().out == ""


def test_a_key_that_cannot_be_stored_stops_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PERSONA_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(SettingsError, match="no API key can be stored here"):
        read_keys(Settings(host="0.0.0.0"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no API key"),
        ("# none yet\n", "has no API key"),
        (f"{ONE}\nshort\n", r"keys:2: a key has 5 characters; write at least 16"),
        (f"{ONE} and more\n", r"keys:1: .* without spaces"),
        ("열쇠는마을회관에숨겨져있다아무도모르게\n", "of ASCII"),
    ],
)
def test_a_bad_keys_file_is_told_by_file_and_line(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "keys").write_text(content)
    with pytest.raises(SettingsError, match=message):
        read_keys(Settings(api_keys_file=tmp_path / "keys"))


def test_a_missing_keys_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"cannot be read: .* write one key a line"):
        read_keys(Settings(api_keys_file=tmp_path / "none"))


def test_routes_of_the_game_need_a_key_and_signs_of_life_do_not(tiny_service: Service) -> None:
    service = altered(tiny_service)
    service.keys = KeyRing.of([ONE])
    with client_of(service) as client:
        for method, path in (
            ("POST", "/ask"),
            ("POST", "/predict_main"),
            ("GET", "/npcs"),
            ("GET", "/metrics"),
        ):
            response = client.request(method, path, content=b"not even JSON")
            check_problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/healthz").status_code == client.get("/readyz").status_code == 200
        assert client.post("/ask", json=ask_body(), headers=headers(ONE)).status_code == 200


def test_the_admin_key_reads_the_metrics_too(tiny_service: Service) -> None:
    service = altered(tiny_service)
    service.keys = KeyRing.of([ONE])
    service.settings = Settings(admin_key="the admin's")
    with client_of(service) as client:
        assert client.get("/metrics", headers=headers("the admin's")).status_code == 200
        check_problem(client.get("/metrics", headers=headers("another")), 403, "forbidden")


def test_two_keys_with_one_session_name_have_two_sessions(tiny_service: Service) -> None:
    service = altered(tiny_service)
    service.keys = KeyRing.of([ONE, TWO])

    def history(client: httpx.Client, key: str) -> str:
        body = ask_body(session_id="the same", dialogue_history=None)
        answer = client.post("/ask", json=body, headers=headers(key)).json()
        found: str = answer["meta"]["history"]
        return found

    with client_of(service) as client:
        assert [history(client, key) for key in (ONE, TWO, ONE)] == ["fresh", "fresh", "continued"]


def test_two_keys_with_one_session_name_hear_their_own_authored_lines(
    tiny_service: Service,
) -> None:
    def lines(*keys: str) -> list[str]:
        service = altered(tiny_service, deadline_s=0.0, lines=AuthoredLines(), sessions=Sessions())
        service.keys = KeyRing.of([ONE, TWO])
        with client_of(service) as client:
            body = ask_body(session_id="the same")
            asked = (client.post("/ask", json=body, headers=headers(key)) for key in keys)
            return [response.json()["text"] for response in asked]

    (alone,) = lines(TWO)
    assert lines(ONE, TWO) == [alone, alone]


def test_a_reload_reads_the_keys_again_and_keeps_the_old_where_they_are_wrong(
    tiny_bundle: Path, small_world: Path, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text(ONE)
    settings = {"api_keys_file": file, "admin_key": "the admin's"}
    with opened(tiny_bundle, small_world, **settings) as service, client_of(service) as client:

        def reload() -> httpx.Response:
            return client.post("/admin/reload", headers=headers("the admin's"))

        def opens(key: str) -> bool:
            return client.get("/npcs", headers=headers(key)).status_code == 200

        file.write_text(TWO)
        assert (opens(ONE), opens(TWO)) == (True, False)
        assert reload().status_code == 200
        assert (opens(ONE), opens(TWO)) == (False, True)
        file.write_text("short")
        check_problem(reload(), 409, "keys_refused")
        assert opens(TWO)
