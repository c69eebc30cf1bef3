"""Swagger UI at `/docs`."""

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from server import swagger


def get(path: str) -> httpx.Response:
    """What the pages alone answer."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=swagger.routes()))
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_the_page_loads_files_of_this_server_only(client: httpx.Client) -> None:
    page = client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "http" not in page.text
    for file in ("swagger-ui.css", "swagger-ui-bundle.js", "initializer.js"):
        assert f'"docs/{file}"' in page.text
        assert client.get(f"/docs/{file}").status_code == 200


def test_the_bundle_is_one_that_reads_openapi_3_1() -> None:
    (script,) = (path for path in swagger.find_assets() if path.suffix == ".js")
    assert b'PACKAGE_VERSION:"5.' in script.read_bytes()


def test_without_its_files_the_page_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swagger, "PACKAGE", "not-installed-anywhere")
    page = get("/docs")
    assert page.status_code == 200
    assert 'pip install "persona-chat-engine[docs]"' in page.text
    assert 'href="openapi.json"' in page.text
    assert get("/docs/swagger-ui.css").status_code == 404


def test_a_package_without_the_files_is_no_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(swagger, "_FOLDER", str(tmp_path))
    assert swagger.find_assets() == []
