"""What is said before Spark is asked for anything; the tests on a server are in test_spark.py."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest

from tasks.errors import ModelError, NotReadyError, SettingsError
from tasks.settings import REPO, Settings, load_settings
from tasks.spark import session as sessions
from tests.servers import free_port
from tests.tasks.nights import small_settings
from tests.tasks.spark import statements


def with_spark(root: Path | str, url: str = "sc://127.0.0.1:1") -> Settings:
    return small_settings(root, engine={"kind": "spark", "url": url})


def test_without_the_client_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.sql.connect.session", None)
    with (
        pytest.raises(SettingsError, match=r"cannot be imported here.*install the extra spark"),
        sessions.session(with_spark(tmp_path)),
    ):
        pass


@pytest.mark.slow  # imports the client
def test_a_server_that_does_not_answer_is_named_without_waiting(tmp_path: Path) -> None:
    port = free_port()
    with (
        pytest.raises(NotReadyError, match=f"no Spark answers at 127.0.0.1:{port} .*engine.url"),
        sessions.session(with_spark(tmp_path, f"sc://127.0.0.1:{port}/;user_id=me")),
    ):
        pass


def test_a_lake_in_a_store_is_refused() -> None:
    with (
        pytest.raises(SettingsError, match=r"lake\.root is s3://bucket/lake: Spark reads"),
        sessions.session(with_spark("s3://bucket/lake")),
    ):
        pass


def test_an_error_of_this_project_is_found_in_what_an_executor_says() -> None:
    text = "Traceback (most recent call last):\n  File x\ntasks.errors.ModelError: it is damaged\n"
    error = sessions._ours(text)
    assert type(error) is ModelError and str(error) == "it is damaged"
    assert sessions._ours("ValueError: something else") is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://host:15002", "sc://host:15002"),
        ("sc://host:15002/;token=secret", "SPARK_CONNECT_AUTHENTICATE_TOKEN"),
        ("", "set engine.url, too"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        load_settings(engine={"kind": "spark", "url": url})


def test_addresses_of_spark_connect_are_taken() -> None:
    for url in ("sc://host", "sc://10.0.0.1:15002", "sc://host:443/;use_ssl=true;user_id=me"):
        assert load_settings(engine={"kind": "spark", "url": url}).engine.url == url


@pytest.mark.slow  # a process that imports all steps
def test_with_duckdb_pyspark_is_not_imported() -> None:
    program = (
        "import sys\n"
        "from tasks.steps import STEPS\n"
        "for step in STEPS.values(): step.load()\n"
        "print(sorted(name for name in sys.modules if name.partition('.')[0] == 'pyspark'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow  # a process that imports the client
def test_the_client_is_imported_by_a_program_that_is_no_file(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from tasks.spark.session import _client\n"
        "print(_client()[1], hasattr(sys.modules['__main__'], '__file__'))\n"
    )
    here = {name: value for name, value in os.environ.items() if name != "SPARK_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=here | {"PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [version("pyspark-client"), "False"]


def test_every_statement_for_spark_has_cases() -> None:
    assert [name for name, file in statements.FIXTURES.items() if file is None] == []
    assert sorted(statements.OWN.keys() - statements.STATEMENTS.keys()) == []


# Takes the place of Spark's launcher: it listens at the address that it is given, and does not end.
STAND_IN = """#!{python}
import socket, sys, time
[port] = [word.partition("=")[2] for word in sys.argv if ".port=" in word]
with socket.create_server(("127.0.0.1", int(port))):
    time.sleep(600)
"""
STARTS_A_SERVER = """
import time
from tests.servers import spark_connect
with spark_connect() as server:
    print(server._server.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow  # a process that imports what starts servers
def test_a_server_of_tests_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    launcher = tmp_path / "bin" / "spark-submit"
    launcher.parent.mkdir()
    launcher.write_text(STAND_IN.format(python=sys.executable))
    launcher.chmod(0o755)
    tests = subprocess.Popen(
        [sys.executable, "-c", STARTS_A_SERVER],
        env=os.environ | {"PYTHONPATH": str(REPO), "SPARK_HOME": str(tmp_path)},
        stdout=subprocess.PIPE,
    )
    with tests:
        assert tests.stdout
        server = psutil.Process(int(tests.stdout.readline()))
        tests.kill()
    assert psutil.wait_procs([server], timeout=20)[1] == []
