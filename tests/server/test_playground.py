"""The page at `/`: how it is served, that it needs nobody else, that it is in two languages."""

import asyncio
import re
from importlib.resources import files

import httpx
import pytest
from starlette.applications import Starlette

from server.playground import INDEX, Asset, load_assets, routes

ASSETS = load_assets()
SCRIPTS = {name: asset for name, asset in ASSETS.items() if name.endswith(".js")}
ENTRY = re.compile(r'^  (\w+): \[\s*("(?:[^"\\]|\\.)+"),\s*("(?:[^"\\]|\\.)+"),?\s*\],', re.M)
OUTSIDE = re.compile(r"""https?://[^\s"'`)]+""")
NOT_FETCHED = {"http://www.w3.org/2000/svg"}


APP = Starlette(routes=routes())


def get(path: str, headers: dict[str, str] | None = None) -> httpx.Response:
    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(APP)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(asked())


def text_of(name: str) -> str:
    return ASSETS[name].content.decode()


def test_the_page_and_every_file_of_it_come_with_their_media_type() -> None:
    assert get("/").headers["content-type"] == "text/html; charset=utf-8"
    for name, asset in ASSETS.items():
        response = get(f"/playground/{name}")
        assert response.status_code == 200
        assert response.content == asset.content
        assert response.headers["content-type"] == asset.media_type


def test_every_file_that_the_page_names_is_there() -> None:
    named = re.findall(r'(?:src|href)="playground/([^"]+)"', text_of(INDEX))
    imported = [
        part
        for script in SCRIPTS
        for part in re.findall(r'(?:from|import) "\./([^"]+)"', text_of(script))
    ]
    assert "app.js" in named
    assert set(named + imported) <= set(ASSETS)
    assert set(ASSETS) - {INDEX} <= set(named + imported), "nothing lies about unused"


def test_what_a_browser_has_is_not_sent_again_until_it_changes() -> None:
    first = get("/playground/app.js")
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = get("/playground/app.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    stale = get("/playground/app.js", headers={"If-None-Match": '"other"'})
    assert stale.status_code == 200
    assert Asset(b"a", "text/css").etag != Asset(b"b", "text/css").etag


@pytest.mark.parametrize("path", ["/", "/playground/app.js", "/playground/playground.css"])
def test_a_strict_policy_goes_with_every_file(path: str) -> None:
    headers = get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/playground/", "/playground/none.js", "/playground/..%2Fhttp.py"]
)
def test_nothing_else_is_served(path: str) -> None:
    assert get(path).status_code == 404


def test_the_page_has_no_inline_script_or_style() -> None:
    page = text_of(INDEX)
    assert not re.search(r"\sstyle=|<style|\son\w+=|javascript:", page)
    for tag in re.findall(r"<script[^>]*>(.*?)</script>", page, re.S):
        assert tag == ""
    for script in SCRIPTS:
        assert not re.search(r"innerHTML|insertAdjacentHTML|\beval\(", text_of(script)), script


def test_no_file_names_another_host() -> None:
    for name in ASSETS:
        assert set(OUTSIDE.findall(text_of(name))) <= NOT_FETCHED, name


def test_every_text_is_there_in_korean_and_in_english() -> None:
    source = text_of("texts.js")
    table = source[source.index("TEXTS = {") : source.index("\n};")]
    entries = ENTRY.findall(table)
    keys = [key for key, _, _ in entries]
    assert keys == re.findall(r"^  (\w+): \[", table, re.M), "each key has two texts"
    assert len(keys) == len(set(keys))
    for key, korean, english in entries:
        assert re.search(r"[가-힣]", korean) or not re.search(r"[A-Za-z]", english), key
        assert not re.search(r"[가-힣]", english), key
        assert set(re.findall(r"\{\w+\}", korean)) == set(re.findall(r"\{\w+\}", english)), key


def test_every_text_that_is_asked_for_exists_and_none_is_left_over() -> None:
    source = text_of("texts.js")
    keys = set(re.findall(r"^  (\w+): \[", source, re.M))
    page = text_of(INDEX)
    scripts = "\n".join(text_of(name) for name in SCRIPTS if name != "texts.js")
    asked = set(re.findall(r'data-t(?:-label)?="(\w+)"', page))
    asked |= set(re.findall(r'\bt\("(\w+)"', scripts))
    assert asked <= keys
    literals = set(re.findall(r'"(\w+)"', scripts))
    groups = set(re.findall(r'\bword\("(\w+)"', scripts)) | set(re.findall(r"`(\w+)_\$\{", scripts))
    left_over = {
        key
        for key in keys - asked - literals
        if not any(key.startswith(f"{group}_") for group in groups)
    }
    assert left_over == set()


def test_the_files_are_part_of_the_package() -> None:
    assert (files("server") / "playground" / INDEX).is_file()
