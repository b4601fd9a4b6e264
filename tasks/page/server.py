"""The page by itself, on this machine alone: loopback, and a token in the printed address."""

import getpass
import socket
from collections.abc import Callable

import uvicorn

from tasks.errors import PipelineError
from tasks.page.access import TokenAccess
from tasks.page.app import create_app
from tasks.settings import Settings

HOST = "127.0.0.1"


class PageError(PipelineError):
    """The page cannot be served."""


def serve(settings: Settings, port: int, tell: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C. port: 0 takes a free one. tell: is told the address.

    Raises PageError when something else listens on the port.
    """
    access = TokenAccess(getpass.getuser())
    app = create_app(settings, access)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise PageError(
                f"the page cannot listen on {HOST}:{port} ({error.strerror}): choose another port "
                "with --port, or 0 for a free one"
            ) from None
        listening.listen()  # who opens the address at once waits, and is not refused
        tell(f"http://{HOST}:{listening.getsockname()[1]}/?token={access.token}")
        # The token would be in a log of requests.
        config = uvicorn.Config(app, log_level="warning", access_log=False, log_config=None)
        uvicorn.Server(config).run(sockets=[listening])
