"""Real servers on loopback for tests, started from what the system has installed."""

import json
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def webhook() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Receive what is posted: yields the address, and the JSON bodies with their path in `path`.

    What is posted to /broken is received, too, and answered with an error.
    """
    bodies: list[dict[str, Any]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            bodies.append(json.loads(body) | {"path": self.path})
            self.send_response(500 if self.path == "/broken" else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Keep the test's output clean."""

    server = HTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", bodies
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL server with an empty database; yields its URI, password included.

    Its programs are looked for on PATH and where Debian puts them. The server refuses to run as
    root: under root it runs as `nobody`.
    """
    initdb, pg_ctl = _program("initdb"), _program("pg_ctl")
    owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    try:
        data, password = folder / "data", secrets.token_urlsafe(16)
        secret = folder / "password"
        secret.write_text(password)
        if owner:
            os.chown(folder, owner.pw_uid, owner.pw_gid)
            os.chown(secret, owner.pw_uid, owner.pw_gid)

        def run(*command: str) -> None:
            done = subprocess.run(
                command,
                cwd=folder,
                user=owner.pw_uid if owner else None,
                group=owner.pw_gid if owner else None,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"{command[0]} failed: {done.stderr}")

        run(initdb, "-D", str(data), "-U", "test", f"--pwfile={secret}", "-A", "scram-sha-256")
        port = free_port()
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        run(pg_ctl, "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield f"postgresql://test:{password}@127.0.0.1:{port}/postgres"
        finally:
            run(pg_ctl, "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def _program(name: str) -> str:
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(debian[-1]) if debian else None)
    if found is None:
        raise RuntimeError(
            f"{name} is missing: install PostgreSQL (Debian: apt install postgresql)"
        )
    return found


@contextmanager
def s3() -> Iterator[str]:
    """Run an S3-compatible server, empty, that takes any keys; yields its address."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
