"""Swagger UI at `/docs`, from files of this machine.

The files are those that `mkdocs-swagger-ui-tag` carries (extra `docs`); nothing of it is imported.
"""

from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

PACKAGE = "mkdocs-swagger-ui-tag"
_FOLDER = "mkdocs_swagger_ui_tag/swagger-ui"
_FILES = (
    "stylesheets/swagger-ui.css",
    "javascripts/swagger-ui-bundle.js",
)
_CACHED = {"Cache-Control": "public, max-age=86400"}
_SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; connect-src 'self'; "
    "style-src 'self'; img-src 'self' data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
}


def routes() -> list[BaseRoute]:
    """`/docs` and `/docs/FILE`; without Swagger UI a page that says what to install."""
    assets = find_assets()
    pages = files("server") / "swagger"
    page = (pages / ("index.html" if assets else "missing.html")).read_bytes()
    initializer = (pages / "initializer.js").read_bytes()

    async def docs(_: Request) -> Response:
        return Response(page, media_type="text/html", headers=_SECURITY)

    async def start(_: Request) -> Response:
        return Response(initializer, media_type="text/javascript")

    def serve(file: Path) -> Route:
        async def asset(_: Request) -> Response:
            return FileResponse(file, headers=_CACHED)

        return Route(f"/docs/{file.name}", asset, include_in_schema=False)

    return [
        Route("/docs", docs),
        Route("/docs/initializer.js", start, include_in_schema=False),
        *(serve(file) for file in assets),
    ]


def find_assets() -> list[Path]:
    """The files of Swagger UI; none if they are not all there."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError:
        return []
    found = [Path(str(package.locate_file(f"{_FOLDER}/{path}"))) for path in _FILES]
    return found if all(file.is_file() for file in found) else []
