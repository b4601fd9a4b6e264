"""What `make run` and `make up` settle before Airflow starts."""

import contextlib
import datetime as dt
import fcntl
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from local.__main__ import form_of_up, main, run, settings_of_up
from local.client import Airflow
from local.keys import password
from local.logs import UNDERSTOOD, TaskLogs
from local.night import _follow, run_night
from local.services import airflow, environment
from local.source import Source, choose_night, choose_source
from tasks.__main__ import main as command_line
from tasks.chores import report
from tasks.errors import NightError, PipelineError
from tasks.night.ingest import latest_night
from tasks.settings import Settings, load_settings

REPO = Path(__file__).resolve().parents[2]
NIGHT = dt.date(2026, 3, 1)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.source.LAKES", tmp_path / "lakes")
    monkeypatch.setattr("local.source.GENERATED", tmp_path / "generated")


def _events(folder: Path, name: str = "shop.jsonl", ts: str = "2026-03-01T12:00:00Z") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(f'{{"user_id": "u", "item_id": "i", "timestamp": "{ts}"}}\n')
    return file


def test_each_source_has_a_lake_of_its_own(tmp_path: Path) -> None:
    one = choose_source(str(_events(tmp_path)), None, NIGHT)
    other = choose_source(str(_events(tmp_path, "web.jsonl")), None, NIGHT)
    assert one.settings.lake.root == tmp_path / "lakes" / "shop"
    assert other.settings.lake.root == tmp_path / "lakes" / "web"


def test_only_the_settings_own_source_is_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELCREC_PUBLISH__PARQUET", str(tmp_path / "published"))
    monkeypatch.setenv("ELCREC_PUBLISH__POSTGRES_CONNECTION", "warehouse")
    for source in (
        choose_source(str(_events(tmp_path)), None, NIGHT),
        choose_source(None, None, NIGHT),
    ):
        published = source.settings.publish
        assert (published.parquet, published.postgres_connection) == ("", "")
        variables = environment(tmp_path, 1, source.overrides)
        assert variables["ELCREC_PUBLISH__PARQUET"] == ""
    monkeypatch.setenv("ELCREC_SOURCE__PATH", str(_events(tmp_path)))
    own = choose_source(None, str(tmp_path / "own"), NIGHT).settings.publish
    assert own.postgres_connection == "warehouse"


def test_items_are_read_with_the_events_that_they_are_named_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, items = str(_events(tmp_path)), tmp_path / "items.csv"
    items.write_text("item_id,title\ni,One\n")
    named = choose_source(events, None, NIGHT, str(items))
    assert named.overrides["catalogue.path"] == str(items)
    assert named.settings.catalogue.path == str(items)
    assert form_of_up(named, NIGHT)["catalogue.path"] == str(items)
    with pytest.raises(PipelineError, match=r"no file or folder nothing\.csv: correct ITEMS"):
        choose_source(events, None, NIGHT, "nothing.csv")
    # The catalogue of the settings is of the source of the settings, and of no other.
    monkeypatch.setenv("ELCREC_CATALOGUE__PATH", str(tmp_path / "own.csv"))
    assert choose_source(events, None, NIGHT).settings.catalogue.path == ""
    monkeypatch.setenv("ELCREC_SOURCE__PATH", events)
    own = choose_source(None, str(tmp_path / "own"), NIGHT).settings
    assert own.catalogue.path == str(tmp_path / "own.csv")


def test_generated_events_have_a_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    source = choose_source(None, None, NIGHT)
    catalogue = Path(source.settings.catalogue.path)
    assert catalogue.is_file()
    # Events that were generated before there were catalogues get one.
    catalogue.unlink()
    choose_source(None, None, NIGHT)
    assert catalogue.is_file()


def _with_tables(source: Source) -> Path:
    root = source.settings.lake.root
    (root / "events").mkdir()
    return root


def test_two_sources_of_one_name_do_not_share_a_lake(tmp_path: Path) -> None:
    _with_tables(choose_source(str(_events(tmp_path / "a")), None, NIGHT))
    with pytest.raises(PipelineError, match=r"holds the tables of another source.*LAKE=folder"):
        choose_source(str(_events(tmp_path / "b")), None, NIGHT)
    named = choose_source(str(_events(tmp_path / "b")), str(tmp_path / "own"), NIGHT)
    assert _with_tables(named) == tmp_path / "own"
    with pytest.raises(PipelineError, match="holds the tables of another source"):
        choose_source(str(_events(tmp_path / "a")), str(tmp_path / "own"), NIGHT)
    choose_source(str(_events(tmp_path / "b")), str(tmp_path / "own"), NIGHT)


def test_each_generated_world_has_a_lake_of_its_own(tmp_path: Path) -> None:
    one = _with_tables(choose_source(None, None, NIGHT))
    week_later = _with_tables(choose_source(None, None, NIGHT + dt.timedelta(days=7)))
    assert one.name == "generated-2026-03-01" and week_later.name == "generated-2026-03-08"
    of_that_name = str(_events(tmp_path, "generated-2026-03-01.jsonl"))
    with pytest.raises(PipelineError, match="holds the tables of another source"):
        choose_source(of_that_name, None, NIGHT)
    assert choose_source(None, None, NIGHT).settings.lake.root == one


def test_a_folder_of_unknown_tables_is_no_lake_of_a_source(tmp_path: Path) -> None:
    (tmp_path / "lakes" / "shop" / "events").mkdir(parents=True)
    with pytest.raises(PipelineError, match=r"no source\.txt that names their source"):
        choose_source(str(_events(tmp_path)), None, NIGHT)


def test_a_source_that_left_no_table_does_not_keep_its_lake(tmp_path: Path) -> None:
    choose_source(str(_events(tmp_path / "a")), None, NIGHT)
    (tmp_path / "a" / "shop.jsonl").unlink()
    source = choose_source(str(_events(tmp_path / "b")), None, NIGHT)
    assert source.settings.lake.root == tmp_path / "lakes" / "shop"


def test_a_table_of_the_settings_is_the_source_though_it_has_no_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ELCREC_SOURCE__KIND", "postgres")
    assert choose_source(None, None, NIGHT).overrides == {}


@pytest.mark.slow
def test_without_events_they_are_generated_with_their_truth() -> None:
    source = choose_source(None, None, NIGHT)
    assert source.settings.model.n_intents == 8
    assert source.truth is not None and source.truth.is_file()
    assert choose_night(None, source) == NIGHT


@pytest.mark.slow
def test_events_whose_generator_was_killed_are_generated_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("local.generator._draw_night", killed)
        with pytest.raises(KeyboardInterrupt):
            choose_source(None, None, NIGHT)
    source = choose_source(None, None, NIGHT)
    assert choose_night(None, source) == NIGHT


def test_the_source_of_the_settings_goes_before_generated_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELCREC_SOURCE__PATH", str(_events(tmp_path)))
    source = choose_source(None, None, NIGHT)
    assert source.truth is None
    assert source.settings.lake.root == load_settings().lake.root


def test_only_the_source_of_the_settings_is_run_by_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for files in (str(_events(tmp_path)), None):  # None: generated
        source = choose_source(files, None, NIGHT)
        assert settings_of_up(source)["airflow.schedule"] == ""
    monkeypatch.setenv("ELCREC_SOURCE__PATH", str(tmp_path))
    source = choose_source(None, str(tmp_path / "own"), NIGHT)
    assert "airflow.schedule" not in settings_of_up(source)


def test_make_up_fills_in_the_night_and_the_source_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = _events(tmp_path)
    named = choose_source(str(events), None, NIGHT)
    assert form_of_up(named, NIGHT) == {"source.path": str(events), "night": "2026-03-01"}
    form = json.dumps(form_of_up(named, NIGHT))
    assert environment(tmp_path, 1, {"form": form})["ELCREC_FORM"] == form
    monkeypatch.setenv("ELCREC_FORM", form)
    load_settings()  # it is no unknown setting
    # Of a source that goes on, the newest night of today is an old one tomorrow.
    monkeypatch.setenv("ELCREC_SOURCE__PATH", str(tmp_path))
    own = choose_source(None, None, NIGHT)
    assert form_of_up(own, NIGHT) == {"source.path": str(tmp_path)}


@pytest.mark.parametrize(
    ("command", "says"),
    [("run", "give the same command again"), ("up", "tried again at the next make up")],
)
def test_ctrl_c_says_what_is_kept_and_how_to_go_on(
    command: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"local.__main__.{command}", pressed)
    assert main([command, "--home", str(tmp_path)]) == 130
    assert says in capsys.readouterr().err


def _logged(folder: Path, attempt: int, *records: dict[str, Any]) -> None:
    log = folder / "task_id=ingest" / f"attempt={attempt}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_make_run_prints_how_ingest_understood_the_source(tmp_path: Path) -> None:
    told = {"logger": UNDERSTOOD, "level": "info", "event": "[a].csv is read as csv, 2 rows"}
    other = {"logger": "tasks.night.ingest", "level": "info", "event": "[a].csv: csv, 2 rows"}
    _logged(tmp_path, 1, other, told)
    assert list(TaskLogs(tmp_path).new_lines()) == [
        r"ingest  \[a].csv is read as csv, 2 rows",
    ]


def test_why_a_task_failed_is_the_sentence_that_its_last_try_ended_with(tmp_path: Path) -> None:
    raised = [{"exc_type": "OSError", "exc_value": "disk full", "frames": []}]
    says = {"logger": "dags.failures", "level": "error"}
    _logged(
        tmp_path,
        1,
        {"event": "failed", "error_detail": raised},
        says | {"event": "OSError: disk full"},
    )
    logs = TaskLogs(tmp_path)
    assert logs.failure("ingest") == f"OSError: disk full (log: {tmp_path / 'task_id=ingest'})"
    _logged(
        tmp_path,
        2,
        {"event": "Task exited"},
        says | {"event": "a.csv row 3 has no user: correct it"},
    )
    assert logs.failure("ingest") == "a.csv row 3 has no user: correct it"


def test_the_night_is_the_last_one_the_events_have(tmp_path: Path) -> None:
    _events(tmp_path, "a.jsonl", "2026-02-27T23:59:59Z")
    _events(tmp_path, "b.jsonl", "2026-02-28T01:30:00+02:00")
    settings = load_settings(**{"source.path": str(tmp_path)})
    assert latest_night(settings) == dt.date(2026, 2, 27)


def test_a_day_that_is_not_over_is_no_last_night(tmp_path: Path) -> None:
    now = dt.datetime.now(dt.UTC).isoformat()
    _events(tmp_path, "today.jsonl", now)
    with pytest.raises(NightError, match="no usable event"):
        latest_night(load_settings(**{"source.path": str(tmp_path)}))
    _events(tmp_path, "before.jsonl")
    assert latest_night(load_settings(**{"source.path": str(tmp_path)})) == NIGHT


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "--events", "no/such/file.csv"], "no file or folder no/such/file.csv"),
        (["run", "--night", "last tuesday"], "write the night as YYYY-MM-DD"),
        (["up", "--port", "http"], "'http' is no port"),
    ],
)
def test_a_slip_is_one_sentence_and_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--home", str(tmp_path / "airflow")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line


def test_a_second_airflow_in_the_same_home_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "airflow"
    home.mkdir()
    with (home / "lock").open("w") as held:
        held.write("process 1")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        with (
            pytest.raises(PipelineError, match=r"already runs in .*\(process 1\)"),
            airflow(home, 1, {}, {}),
        ):
            pass


def test_only_the_owner_reads_the_password(tmp_path: Path) -> None:
    word = password(tmp_path)
    assert len(word) >= 16
    assert password(tmp_path) == word
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0


def test_airflow_listens_on_loopback_and_sends_nothing_out(tmp_path: Path) -> None:
    env = environment(tmp_path, 8081, {"model.seed": 7})
    assert env["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert env["AIRFLOW__USAGE_DATA_COLLECTION__ENABLED"] == "False"
    assert env["AIRFLOW__CORE__LOAD_EXAMPLES"] == "False"
    assert env["ELCREC_MODEL__SEED"] == "7"


def test_a_settings_file_may_be_named_from_where_make_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "settings.toml").write_text("[model]\nseed = 7\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELCREC_SETTINGS", "shop/settings.toml")
    in_airflow = environment(tmp_path, 8081, {})
    monkeypatch.chdir(tmp_path / "shop")  # Airflow's processes work in another folder
    monkeypatch.setenv("ELCREC_SETTINGS", in_airflow["ELCREC_SETTINGS"])
    assert load_settings().model.seed == 7


def test_the_command_that_run_names_prints_the_report_of_its_lake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("local.__main__.run_night", lambda *_: None)
    monkeypatch.setattr(report, "show", lambda *_, **__: None)
    own = tmp_path / "a lake"
    run(None, str(NIGHT), str(own), tmp_path / "airflow")
    (line,) = (one for one in capsys.readouterr().out.splitlines() if "again:" in one)
    python, *module, command = shlex.split(line.partition("again: ")[2])[:4]
    assert Path(python).absolute() == Path(sys.executable)
    assert [*module, command] == ["-m", "tasks", "report"]
    monkeypatch.undo()
    shown: dict[str, Any] = {}

    def show(settings: Settings, night: dt.date, **named: Any) -> None:
        shown.update(root=settings.lake.root, night=night, truth=named["truth"])

    monkeypatch.setattr(report, "show", show)
    monkeypatch.setattr(sys, "argv", ["tasks", *shlex.split(line.partition("tasks ")[2])])
    with pytest.raises(SystemExit):
        command_line()
    truth = tmp_path / "generated" / str(NIGHT) / "truth.parquet"
    assert shown == {"root": own, "night": NIGHT, "truth": truth} and truth.is_file()


def _answering(
    replies: Callable[[httpx.Request], httpx.Response], home: Path, monkeypatch: pytest.MonkeyPatch
) -> Airflow:
    monkeypatch.setattr("local.client.PAUSE", 0.0)
    monkeypatch.setattr("local.night.POLL", 0.0)
    client = httpx.Client(base_url="http://127.0.0.1", transport=httpx.MockTransport(replies))
    return Airflow("http://127.0.0.1", home, client=client)


def test_brackets_in_what_a_task_says_are_printed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "no column [/item] in [red].csv"
    attempt = tmp_path / "logs" / "dag_id=nightly_intents" / "run_id=r" / "task_id=ingest"
    attempt.mkdir(parents=True)
    error = [{"exc_type": "OSError", "exc_value": said}]
    (attempt / "attempt=1.log").write_text(json.dumps({"error_detail": error}) + "\n")
    states = iter(["up_for_retry", "success"])
    now = {"state": ""}

    def replies(request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/taskInstances"):
            now["state"] = next(states)
            return httpx.Response(200, json={"state": now["state"]})
        task = {"task_id": "ingest", "try_number": 1, "start_date": None, "duration": 1.0}
        return httpx.Response(200, json={"task_instances": [task | now]})

    _follow(_answering(replies, tmp_path, monkeypatch), "r")
    assert f"OSError: {said}" in capsys.readouterr().out


def test_a_run_that_is_stopped_does_not_go_on_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: dict[str, str] = {}
    paused = []

    def replies(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content or "{}")
        name = request.url.path.rpartition("/")[2]
        if request.method == "POST":
            runs[body["dag_run_id"]] = "running"
        elif request.method == "PATCH" and name in runs:
            runs[name] = body["state"]
        elif request.method == "PATCH":
            paused.append(body["is_paused"])
        state = request.url.params.get("state")
        found = [{"dag_run_id": run} for run, its in runs.items() if its == state]
        return httpx.Response(200, json={"dag_runs": found})

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    @contextlib.contextmanager
    def started(*_: object) -> Iterator[Airflow]:
        yield _answering(replies, tmp_path, monkeypatch)

    monkeypatch.setattr("local.night.airflow", started)
    monkeypatch.setattr("local.night._follow", stopped)
    source = choose_source(str(_events(tmp_path)), str(tmp_path / "lake"), NIGHT)
    with pytest.raises(KeyboardInterrupt):
        run_night(NIGHT, source, tmp_path)
    assert list(runs.values()) == ["failed"] and paused == [False, True]


def test_a_slow_api_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = iter([httpx.ReadTimeout("slow"), httpx.ConnectError("gone"), None])

    def replies(request: httpx.Request) -> httpx.Response:
        if error := next(slow):
            raise error
        return httpx.Response(200, json={"state": "running"})

    running = _answering(replies, tmp_path, monkeypatch)
    assert running.call("GET", "/dagRuns/r") == {"state": "running"}


@pytest.mark.parametrize(("method", "tries"), [("GET", 5), ("POST", 1)])
def test_an_api_that_does_not_answer_is_one_sentence(
    method: str, tries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def silent(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise httpx.ReadTimeout("timed out")

    running = _answering(silent, tmp_path, monkeypatch)
    with pytest.raises(PipelineError, match=r"did not answer .*timed out.*api-server\.log"):
        running.call(method, "/dagRuns")
    assert len(asked) == tries


@pytest.mark.parametrize("status", [401, 503])
def test_a_login_that_is_refused_is_one_sentence(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = _answering(lambda _: httpx.Response(status, text="why"), tmp_path, monkeypatch)
    monkeypatch.setattr(httpx, "Client", lambda **_: running.client)
    with pytest.raises(PipelineError, match=f"refused POST /auth/token: {status} why"):
        running.login()
