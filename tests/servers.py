"""Real servers on loopback for tests, started from what the system has installed."""

import base64
import hmac
import json
import logging
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil

from local.services import end_with_parent
from tests.needs import needs


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


class Postgres:
    """A PostgreSQL server with an empty database, which a test may stop and start again.

    Its programs are looked for on PATH and where Debian puts them. The server refuses to run as
    root: under root it runs as `nobody`.
    """

    def __init__(self, folder: Path, password: str) -> None:
        self.folder, self.port = folder, free_port()
        self.owner = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self.uri = f"postgresql://test:{password}@127.0.0.1:{self.port}/postgres"
        secret = folder / "password"
        secret.write_text(password)
        if self.owner:
            for path in (folder, secret):
                os.chown(path, self.owner.pw_uid, self.owner.pw_gid)
        self._run("initdb", "-U", "test", f"--pwfile={secret}", "-A", "scram-sha-256")

    def start(self) -> None:
        """Start the server on the port that it had before, and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 "
        options += f"-c unix_socket_directories={self.folder}"
        self._run("pg_ctl", "-w", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """Stop the server as a crash would: whoever is connected is cut off."""
        self._run("pg_ctl", "-m", "immediate", "-w", "stop")

    @property
    def runs(self) -> bool:
        """Whether it runs, as far as its folder says."""
        return (self.folder / "data" / "postmaster.pid").exists()

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [_program(name), "-D", str(self.folder / "data"), *arguments],
            cwd=self.folder,
            user=self.owner.pw_uid if self.owner else None,
            group=self.owner.pw_gid if self.owner else None,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed: {done.stderr}")


@needs("servers")
@contextmanager
def postgres_server(password: str | None = None) -> Iterator[Postgres]:
    """Run a PostgreSQL server."""
    folder = Path(tempfile.mkdtemp(prefix="postgres-", dir="/tmp"))
    try:
        server = Postgres(folder, password or secrets.token_urlsafe(16))
        server.start()
        try:
            yield server
        finally:
            if server.runs:
                server.stop()
    finally:
        shutil.rmtree(folder)


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL server; yields its URI, password included."""
    with postgres_server() as server:
        yield server.uri


@needs("servers")
@contextmanager
def redis(password: str) -> Iterator[str]:
    """Run a Redis server that keeps nothing on disk; yields its host and port."""
    from redis import Redis
    from redis.exceptions import ConnectionError as NotThereError

    port = free_port()
    server = subprocess.Popen(
        [_program("redis-server"), "-", "--bind", "127.0.0.1", "--port", str(port), "--save", ""],
        cwd="/",
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdin
        server.stdin.write(f"requirepass {password}\n")
        server.stdin.close()
        client = Redis("127.0.0.1", port, password=password)
        until = time.monotonic() + 30
        while True:
            try:
                client.ping()
                break
            except NotThereError:
                if server.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.05)
        client.close()
        yield f"127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


EXECUTOR = "org.apache.spark.executor.CoarseGrainedExecutorBackend"  # its main class


class Spark:
    """A Spark Connect server with two executors, each a process of its own, of one core."""

    def __init__(self, url: str, server: subprocess.Popen[bytes]) -> None:
        self.url, self._server = url, server

    def executors(self) -> list[psutil.Process]:
        """Return the processes of the executors that run now; of one that dies another begins."""
        found = []
        for child in psutil.Process(self._server.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                if child.status() != psutil.STATUS_ZOMBIE and EXECUTOR in child.cmdline():
                    found.append(child)
        return found


@needs("servers")
@contextmanager
def spark_connect() -> Iterator[Spark]:
    """Run a Spark Connect server. Its executors' Python is that of the tests.

    The distribution is that of SPARK_HOME, or the one that `make servers` has put into build/.
    """
    repo = Path(__file__).resolve().parents[1]
    home = Path(os.environ.get("SPARK_HOME") or repo / "build" / "spark" / "pyspark")
    port = free_port()
    if not (home / "bin" / "spark-submit").exists():
        raise RuntimeError(f"no Spark is in {home}: run 'make servers', or set SPARK_HOME")
    folder = Path(tempfile.mkdtemp(prefix="spark-", dir="/tmp"))
    # A home of links: the executors of a local cluster write below their home, whatever is set.
    (folder / "home").mkdir()
    for path in home.iterdir():
        (folder / "home" / path.name).symlink_to(path)
    options = {
        "spark.connect.grpc.binding.address": "127.0.0.1",
        "spark.connect.grpc.binding.port": port,
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.memory": "512m",
        "spark.executor.memory": "512m",
        "spark.sql.shuffle.partitions": 2,
        "spark.sql.warehouse.dir": folder / "warehouse",
        "spark.ui.enabled": "false",
        # Of a few rows, compiling takes most of the time: what the JVM compiles, what Spark has
        # compiled of each statement, and what it plans anew after each shuffle.
        "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.adaptive.enabled": "false",
    }
    command = [str(folder / "home" / "bin" / "spark-submit"), "--master", "local-cluster[2,1,512]"]
    command += ["--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
    for name, value in options.items():
        command += ["--conf", f"{name}={value}"]
    environment = os.environ | {
        "SPARK_HOME": str(folder / "home"),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_HOSTNAME": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(folder / "local"),
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": "",  # what the executors need of this checkout they are sent
    }
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "spark-internal"],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent,  # a test that is killed leaves no server
        )
    try:
        until = time.monotonic() + 240
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    text = (folder / "log").read_text("utf-8", "replace")
                    raise RuntimeError(f"Spark does not start: {text[-2000:]}") from None
                time.sleep(0.2)
        yield Spark(f"sc://127.0.0.1:{port}", server)
    finally:
        server.terminate()
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)  # with its executors
            server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _program(name: str) -> str:
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(debian[-1]) if debian else None)
    if found is None:
        raise RuntimeError(
            f"{name} is missing: install PostgreSQL and Redis "
            "(Debian: apt install postgresql redis-server)"
        )
    return found


@needs("servers")
@contextmanager
def s3(host: str = "127.0.0.1") -> Iterator[str]:
    """Run an S3-compatible server, empty, that takes any keys; yields its address here."""
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    # moto looks at the condition of a write and writes in two steps, and serves each request in a
    # thread: without this, two writes on one condition may both succeed.
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not a line a request
    one_at_a_time, put = threading.Lock(), S3Response.put_object

    def put_object(self: S3Response) -> Any:
        with one_at_a_time:
            return put(self)

    S3Response.put_object = put_object
    server = ThreadedMotoServer(ip_address=host, port=0, verbose=False)
    server.start()
    try:
        yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    finally:
        server.stop()
        S3Response.put_object = put


@needs("servers")
@contextmanager
def azurite(program: str = "azurite-blob") -> Iterator[dict[str, str]]:
    """Run Azurite (npm install azurite) with an empty container `lake`.

    Yields the environment in which az://lake is reached.
    """
    account, key = "tests", base64.b64encode(secrets.token_bytes(32)).decode()
    port = free_port()
    command = [program, "--inMemoryPersistence", "--silent", "--disableTelemetry"]
    command += ["--skipApiVersionCheck", "--blobHost", "127.0.0.1", "--blobPort", str(port)]
    server = subprocess.Popen(
        command,
        env=os.environ | {"AZURITE_ACCOUNTS": f"{account}:{key}"},
        stdout=subprocess.DEVNULL,
        cwd=tempfile.gettempdir(),
    )
    try:
        address, until = f"http://127.0.0.1:{port}/{account}", time.monotonic() + 120
        while True:
            try:
                _make_container(f"{address}/lake", account, key).raise_for_status()
                break
            except httpx.TransportError:
                if server.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.1)
        yield {
            "AZURE_STORAGE_ACCOUNT_NAME": account,
            "AZURE_STORAGE_ACCOUNT_KEY": key,
            "AZURE_STORAGE_ENDPOINT": address,
            # Else its lists are asked to begin in the middle, which it cannot.
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
        }
    finally:
        server.kill()
        server.wait()


def _make_container(url: str, account: str, key: str) -> httpx.Response:
    """Make a container, by a request that is signed as Azure's Shared Key says: obstore has none.

    https://learn.microsoft.com/en-us/rest/api/storageservices/authorize-with-shared-key
    """
    headers = {
        "x-ms-date": formatdate(usegmt=True),
        "x-ms-version": "2021-08-06",
    }
    signed = "\n".join(
        [
            "PUT",
            *[""] * 11,  # headers that the request has not
            *(f"{name}:{value}" for name, value in headers.items()),
            f"/{account}{urlsplit(url).path}",
            "restype:container",
        ]
    )
    mac = hmac.digest(base64.b64decode(key), signed.encode(), "sha256")
    headers["Authorization"] = f"SharedKey {account}:{base64.b64encode(mac).decode()}"
    return httpx.put(url, params={"restype": "container"}, headers=headers, trust_env=False)
