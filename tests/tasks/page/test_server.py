"""The page by itself: on loopback, at an address with a token, until it is stopped."""

import signal
import socket
import subprocess
import sys

import httpx
import psutil
import pytest

from tasks.lake import Lake
from tasks.page.server import PageError, serve
from tasks.settings import REPO, Settings

pytestmark = pytest.mark.slow


def test_the_command_prints_an_address_of_loopback_that_lets_its_holder_in(
    lake: Lake, settings: Settings
) -> None:
    command = [sys.executable, "-m", "tasks", "page", "--port", "0", "--lake"]
    with subprocess.Popen(
        [*command, str(settings.lake.root)], cwd=REPO, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split(": ", 1)[1].strip()
            base = address.partition("/?")[0]
            assert base.startswith("http://127.0.0.1:")
            listening = [
                one.laddr.ip
                for one in psutil.Process(server.pid).net_connections("inet")
                if one.status == psutil.CONN_LISTEN
            ]
            assert set(listening) == {"127.0.0.1"}
            with httpx.Client(trust_env=False, follow_redirects=True, timeout=60) as client:
                assert client.get(f"{base}/night").status_code == 401
                answer = client.get(address)
                assert answer.status_code == 200 and "token" not in str(answer.url)
        finally:
            server.send_signal(signal.SIGINT)
            assert server.wait(30) in (0, 130, -signal.SIGINT)


def test_a_port_that_is_taken_is_said(lake: Lake, settings: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PageError, match="choose another port with --port"):
            serve(settings, port, print)


def test_without_a_lake_the_command_says_so(settings: Settings) -> None:
    command = [sys.executable, "-m", "tasks", "page", "--lake", str(settings.lake.root)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: there is no lake")
