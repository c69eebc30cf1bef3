"""The playground: a page at `/` to talk with an NPC, and the files it is made of."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePath

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page."""

    content: bytes
    media_type: str

    @property
    def etag(self) -> str:
        """Changes with the content, so that a browser keeps what it has until then."""
        return f'"{hashlib.sha256(self.content).hexdigest()[:20]}"'


def routes() -> list[BaseRoute]:
    """`/` and `/playground/FILE`."""
    assets = load_assets()

    async def page(request: Request) -> Response:
        return _response(request, assets[INDEX])

    async def part(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in assets:
            raise HTTPException(404, f"the playground has no file {name!r}")
        return _response(request, assets[name])

    return [Route("/", page), Route("/playground/{name}", part, include_in_schema=False)]


def load_assets() -> dict[str, Asset]:
    """Every file of the page by name, read once."""
    folder = files("server") / "playground"
    return {
        file.name: Asset(file.read_bytes(), MEDIA_TYPES[PurePath(file.name).suffix])
        for file in folder.iterdir()
        if PurePath(file.name).suffix in MEDIA_TYPES
    }


def _response(request: Request, asset: Asset) -> Response:
    headers = {"ETag": asset.etag, "Cache-Control": "no-cache", **SECURITY}
    known = request.headers.get("if-none-match", "")
    if asset.etag in (tag.strip().removeprefix("W/") for tag in known.split(",")):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)
