"""What the files of a deployment say."""

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet

from tasks.errors import PipelineError

REPO = Path(__file__).resolve().parent.parent
DOCKER = REPO / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
VOLUMES: list[str] = COMPOSE["x-airflow"]["volumes"]
JOBS = ("scheduler", "triggerer")
OURS = [name for name, service in COMPOSE["services"].items() if "build" in service]


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"docker_{name}", DOCKER / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


processes = module("processes")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return what `docker/.env` holds after new_env.py has written it."""
    file = tmp_path_factory.mktemp("docker") / ".env"
    assert module("new_env").main(file) == 0
    lines = [line for line in file.read_text().splitlines() if line and line[0] != "#"]
    return dict(line.split("=", 1) for line in lines)


def test_secrets_are_fresh_fit_into_a_url_and_are_written_once_for_the_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new_env = module("new_env")
    one, other = new_env.fresh_secrets(), new_env.fresh_secrets()
    for name, value in one.items():
        assert value != other[name]
        assert re.fullmatch(r"[\w-]{20,}=?", value), name
    Fernet(one["FERNET_KEY"])
    file = tmp_path / ".env"
    assert new_env.main(file) == 0
    assert file.stat().st_mode & 0o077 == 0
    before = file.read_text()
    assert new_env.main(file) == 2
    assert file.read_text() == before
    assert "is there already" in capsys.readouterr().err


def test_compose_refuses_to_start_without_any_of_its_secrets(secrets: dict[str, str]) -> None:
    complete = {**secrets, "EVENTS": "/events"}
    text = (DOCKER / "compose.yaml").read_text()
    processes.interpolated(text, complete)
    for name in complete:
        for value in ({}, {name: ""}):
            without = {key: kept for key, kept in complete.items() if key != name} | value
            with pytest.raises(PipelineError, match=f"^{name} is not set"):
                processes.interpolated(text, without)


def test_no_secret_has_a_default() -> None:
    for name, default in re.findall(r"\$\{(\w+):-([^}]*)\}", (DOCKER / "compose.yaml").read_text()):
        assert not re.search("PASSWORD|SECRET|KEY", name), f"{name} is {default}"


def test_variables_are_replaced_as_compose_does() -> None:
    replaced = processes.interpolated("a$$b ${X} ${Y:-c:5} ${Z:-d} ${W}", {"X": "x", "Z": ""})
    assert replaced == "a$b x c:5 d "


def test_with_the_lake_in_a_store_no_two_services_have_a_volume_in_common(
    secrets: dict[str, str],
) -> None:
    files = [DOCKER / "compose.yaml", DOCKER / "compose.store.yaml"]
    variables = {**secrets, "EVENTS": "none"}
    with pytest.raises(PipelineError, match=r"^(LAKE|SOURCE) is not set"):
        processes.services(variables, files)
    places = {"LAKE": "s3://lakes/shop", "SOURCE": "s3://lakes/events/"}
    found = processes.services(variables | places, files)
    assert list(found) == OURS
    over = yaml.safe_load(files[1].read_text())["services"]
    for name, service in found.items():
        assert service.environment["ELCREC_LAKE__ROOT"] == places["LAKE"]
        assert service.environment["ELCREC_SOURCE__PATH"] == places["SOURCE"]
        assert service.environment["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
        # One in the same place counts, of the later file; without a source it is of one container.
        own = {volume["target"] for volume in over[name]["volumes"] if "source" not in volume}
        shared = {volume.split(":")[-2 if volume.endswith(":ro") else -1] for volume in VOLUMES}
        assert own == shared
    # Logs are not in a volume: so workers answer for theirs, by otherwise the same commands.
    for name, plain in processes.services(variables).items():
        without = [word for word in plain.command if word != "--skip-serve-logs" or name in JOBS]
        assert found[name].command == without


def test_only_the_web_page_has_a_port_and_that_on_loopback() -> None:
    published = {name: s["ports"] for name, s in COMPOSE["services"].items() if "ports" in s}
    assert list(published) == ["api-server"]
    (port,) = (processes.interpolated(one, {}) for one in published["api-server"])
    assert port == "127.0.0.1:8080:8080"
    assert COMPOSE["networks"]["servers"]["internal"] is True
    for name in ("postgres", "redis"):
        assert COMPOSE["services"][name]["networks"] == ["servers"]


def test_every_service_is_watched_and_started_again() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["restart"].startswith("on-failure" if name == "init" else "unless-stopped")
        assert name == "init" or service["healthcheck"]["test"], name
        assert "no-new-privileges:true" in service["security_opt"], name


def test_every_queue_has_a_worker_and_the_training_goes_to_its_own() -> None:
    queues = {
        command[command.index("--queues") + 1]
        for command in (COMPOSE["services"][name]["command"] for name in OURS)
        if "worker" in command
    }
    environment = COMPOSE["x-airflow"]["environment"]
    assert queues == {"default", environment["ELCREC_AIRFLOW__TRAINING_QUEUE"]}
    assert "FabAuthManager" in environment["AIRFLOW__CORE__AUTH_MANAGER"]


def test_the_image_runs_as_a_user_and_holds_no_secret_and_no_data() -> None:
    stages = (DOCKER / "Dockerfile").read_text().split("\nFROM ")
    assert re.search(r"^USER 50000", stages[-1], re.MULTILINE)
    assert all(re.match(r"python:3\.11\.\d+-", stage) for stage in stages[1:])
    kept = {
        line[1:] for line in (REPO / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert kept == {
        *("constraints/py311.txt", "pyproject.toml", "settings.toml"),
        *("dags/", "elcrec/", "local/", "plugins/", "sql/", "tasks/"),
    }


def test_a_missing_secret_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FERNET_KEY", raising=False)
    assert processes.main(["--home", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "is not set in the environment: run python3" in line
