"""`hrm serve`: puzzles answered over HTTP, and a page on which to watch. Needs the extra `serve`.

worker.py runs the puzzles of all requests together, which come and go at any time; app.py speaks HTTP; page.html is the page.
"""

import asyncio
import socket as sockets
from collections.abc import Mapping
from typing import Any


def listen(host: str, port: int) -> sockets.socket:
    """A socket on this address. Raises ValueError where it cannot be had, or where the extra is not installed."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise ValueError("hrm serve needs the extra: pip install 'hrm-torch[serve]'") from None
    try:
        family = sockets.getaddrinfo(host, port, type=sockets.SOCK_STREAM)[0][0]
        return sockets.create_server((host, port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "no address"
        words, _, _ = words.partition(" (while")  # create_server repeats the address
        raise ValueError(f"{address(host, port)}: {words}; choose another --port or --host") from None


def address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def run(reasoners: Mapping[str, Any], socket: sockets.socket, **options: Any) -> None:
    """Serve on this socket until SIGINT or SIGTERM; `options` are those of `create_app`."""
    import uvicorn

    from .app import create_app

    app = create_app(reasoners, **options)

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: Any = None) -> None:
            await asyncio.to_thread(app.state.worker.stop)  # first, so that whoever waits hears it and goes
            await super().shutdown(sockets)

    print(f"hrm: {', '.join(reasoners)} at http://{address(*socket.getsockname()[:2])}/ until Ctrl-C", flush=True)
    Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=5)).run(sockets=[socket])
