"""A server process that also tells what it holds: `python -m tests.server.watched_server`.

Prints its port when it is ready. `GET /held` gives sequences, waiting requests and resident bytes.
"""

import gc
import resource
import socket
from pathlib import Path

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from server.http import make_app
from server.service import Service, open_service
from server.serving import Http
from server.settings import read_settings


def num_resident_bytes() -> int:
    """Memory of this process that is not swapped out or shared away."""
    num_pages = int(Path("/proc/self/statm").read_text().split()[1])
    return num_pages * resource.getpagesize()


async def held(request: Request) -> JSONResponse:
    """What the process holds now."""
    service: Service = request.state.service
    gc.collect()
    stats = service.engine.stats
    return JSONResponse(
        {
            "sequences": stats.num_claimed_sequences,
            "waiting": stats.num_waiting,
            "free_cells": stats.num_free_cells,
            "bytes": num_resident_bytes(),
        }
    )


def main() -> None:
    """Serve until SIGTERM."""
    app = make_app(lambda: open_service(read_settings()))
    app.routes.append(Route("/held", held))
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_config=None, http=Http, ws="none")).run([listening])


if __name__ == "__main__":
    main()
