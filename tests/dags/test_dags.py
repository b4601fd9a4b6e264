"""House rules: what every DAG file of this repository keeps to."""

import datetime as dt
import itertools
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from airflow.sdk import DAG, RetryAction
from airflow.sdk.execution_time.context import NEVER_EXPIRE, OutletEventAccessors

from dags.failures import MendFirstError, TryAgainError
from tasks.connections import postgres_uri
from tasks.errors import NotReadyError, SourceError
from tasks.lake import Lake, tables
from tasks.night.publish import publish
from tasks.settings import load_settings
from tasks.steps import STEPS, run_step
from tests.tasks.labels import labels_of, write_labels

REPO = Path(__file__).resolve().parents[2]
NO_DAGS = (REPO / "dags" / ".airflowignore").read_text().split()
FILES = sorted(file for file in (REPO / "dags").glob("*.py") if file.name not in NO_DAGS)


@pytest.fixture(scope="module")
def bag() -> Any:
    from airflow.dag_processing.dagbag import DagBag

    return DagBag(dag_folder=str(REPO / "dags"))


@pytest.fixture
def nightly(bag: Any) -> DAG:
    dag: DAG = bag.dags["nightly_intents"]
    return dag


def test_every_dag_file_loads_without_an_error(bag: Any) -> None:
    assert bag.import_errors == {}
    assert {Path(dag.fileloc) for dag in bag.dags.values()} == set(FILES)


def test_every_dag_explains_itself(bag: Any) -> None:
    for dag in bag.dags.values():
        assert dag.doc_md and len(dag.doc_md) > 200, dag.dag_id
        assert dag.description and dag.tags, dag.dag_id
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.description and param.schema["type"], f"{dag.dag_id}: param {name}"
        for task in dag.tasks:
            assert task.doc_md, f"{dag.dag_id}.{task.task_id} has no doc"


def test_every_task_has_an_owner_and_is_tried_again_after_a_pause(bag: Any) -> None:
    for dag in bag.dags.values():
        for task in dag.tasks:
            where = f"{dag.dag_id}.{task.task_id}"
            assert task.owner and task.owner != "airflow", where
            assert task.retries >= 1, where
            assert task.retry_delay >= dt.timedelta(minutes=1), where


def test_no_dag_catches_up_or_runs_two_nights_at_once(bag: Any) -> None:
    for dag in bag.dags.values():
        assert dag.catchup is False
        assert dag.max_active_runs == 1


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_dag_file_is_short_and_parses_within_two_seconds(file: Path) -> None:
    assert len(file.read_text().splitlines()) < 100
    # CPU time of a fresh process, Airflow itself not counted: what a busy machine does not change.
    code = (
        "import runpy, sys, time, airflow.sdk; start = time.process_time();"
        f"runpy.run_path({str(file)!r}); print(time.process_time() - start);"
        "print(*sorted({'torch', 'great_expectations', 'duckdb', 'sklearn'} & set(sys.modules)))"
    )
    seconds, _, heavy = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO
    ).stdout.partition("\n")
    assert float(seconds) < 2
    assert heavy.strip() in ("", "duckdb")


def test_the_night_runs_every_step_in_order(nightly: DAG) -> None:
    settles, waits, *order = [task.task_id for task in nightly.topological_sort()]
    assert (settles, waits) == ("night", "in_turn")
    assert nightly.get_task(settles).downstream_task_ids == {waits}
    assert nightly.get_task(waits).downstream_task_ids == {order[0]}
    assert order == [name.replace("-", "_") for name in STEPS]
    for task, following in itertools.pairwise(order):
        assert nightly.get_task(task).downstream_task_ids == {following}
    groups = {"events", "sequences", "model", "labels"}
    assert set(nightly.task_group.children) == {"night", "in_turn", *groups}


@pytest.mark.parametrize(
    ("state", "run_type", "own_type", "goes"),
    [
        ("success", "scheduled", "scheduled", True),
        ("failed", "backfill", "backfill", True),
        ("running", "backfill", "backfill", False),
        ("running", "manual", "scheduled", False),
        ("queued", "backfill", "scheduled", False),
        ("queued", "scheduled", "scheduled", True),
    ],
)
def test_a_night_waits_for_the_run_before_it(
    nightly: DAG, state: str, run_type: str, own_type: str, goes: bool
) -> None:
    wait = nightly.get_task("in_turn").poke
    before = SimpleNamespace(state=state, run_type=run_type, run_id="r")
    ti = SimpleNamespace(get_previous_dagrun=lambda: before)
    assert wait({"ti": ti, "dag_run": SimpleNamespace(run_type=own_type)}) is goes
    ti = SimpleNamespace(get_previous_dagrun=lambda: None)
    assert wait({"ti": ti, "dag_run": SimpleNamespace(run_type=own_type)}) is True


def test_a_backfill_that_runs_backwards_is_refused(nightly: DAG) -> None:
    wait = nightly.get_task("in_turn").poke
    before = SimpleNamespace(state="queued", run_type="backfill", run_id="backfill__2026-03-01")
    ti = SimpleNamespace(get_previous_dagrun=lambda: before)
    with pytest.raises(MendFirstError, match="without --run-backwards"):
        wait({"ti": ti, "dag_run": SimpleNamespace(run_type="backfill")})


def test_publishing_announces_the_labels(nightly: DAG) -> None:
    assert [outlet.name for outlet in nightly.get_task("publish").outlets] == ["intent_labels"]
    assert not any(task.outlets for task in nightly.tasks if task.task_id != "publish")


class Kept(dict[str, Any]):
    """A task's state store: what a try keeps, the next one finds."""

    def set(self, key: str, value: Any, retention: Any) -> None:
        assert retention is NEVER_EXPIRE
        self[key] = value


def settled(nightly: DAG, run_type: str, night: str | None, source: Path, kept: Kept) -> str:
    """Settle the night of a run, as its first task does; its data interval starts on 2026-03-01."""
    settle = nightly.get_task("night").python_callable
    start = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
    chosen: str = settle(
        dag_run=SimpleNamespace(run_type=run_type),
        params={"night": night, "source.path": str(source)},
        task_state_store=kept,
        data_interval_start=start,
    )
    return chosen


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Give a folder with the events of one day of 2025."""
    (tmp_path / "shop").mkdir()
    _deliver(tmp_path / "shop", "2025-12-24")
    return tmp_path / "shop"


def _deliver(folder: Path, day: str) -> None:
    (folder / f"{day}.csv").write_text(f"user_id,item_id,ts\nann,a,{day}T10:00:00Z\n")


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
def test_a_scheduled_run_takes_the_night_of_its_interval_whatever_the_events_are(
    nightly: DAG, shop: Path, run_type: str
) -> None:
    for filled_in in (None, "2025-12-24"):
        assert settled(nightly, run_type, filled_in, shop, Kept()) == "2026-03-01"


def test_a_run_by_hand_takes_the_night_of_the_form(nightly: DAG, shop: Path) -> None:
    assert settled(nightly, "manual", "1998-04-22", shop, Kept()) == "1998-04-22"
    today = str(dt.datetime.now(dt.UTC).date())
    with pytest.raises(MendFirstError, match=f"night {today} is not over yet"):
        settled(nightly, "manual", today, shop, Kept())


def test_a_run_by_hand_without_a_night_takes_the_newest_of_the_source_and_keeps_it(
    nightly: DAG, shop: Path
) -> None:
    today = dt.datetime.now(dt.UTC).date()
    _deliver(shop, str(today))  # not over yet
    kept = Kept()
    assert settled(nightly, "manual", None, shop, kept) == "2025-12-24"
    _deliver(shop, "2025-12-25")
    assert settled(nightly, "manual", None, shop, kept) == "2025-12-24", "the run was cleared"
    assert settled(nightly, "manual", None, shop, Kept()) == "2025-12-25"


def test_a_source_without_a_night_that_is_over_fails_the_run_at_once(
    nightly: DAG, tmp_path: Path
) -> None:
    _deliver(tmp_path, str(dt.datetime.now(dt.UTC).date()))
    with pytest.raises(MendFirstError, match="has no usable event of "):
        settled(nightly, "manual", None, tmp_path, Kept())


def test_every_step_takes_the_night_that_the_first_task_has_settled(nightly: DAG) -> None:
    ti = SimpleNamespace(xcom_pull=lambda task_ids: f"the night of {task_ids}")
    for name in STEPS:
        task = nightly.get_task(name.replace("-", "_"))
        assert task.render_template(task.op_args[0], {"ti": ti}) == "the night of night"


def test_what_make_up_fills_in_stands_in_the_form(
    nightly: DAG, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert nightly.params["night"] is None
    monkeypatch.setenv("ELCREC_FORM", '{"night": "2026-03-01", "source.path": "/events"}')
    file = REPO / "dags" / "nightly_intents.py"
    params = runpy.run_path(str(file))["nightly_intents"]().params
    assert (params["night"], params["source.path"]) == ("2026-03-01", "/events")
    assert params["model.n_intents"] is None
    night = params.get_param("night")
    assert night.schema["format"] == "date" and night.description


def test_a_scheduled_run_takes_the_day_that_has_just_ended(nightly: DAG) -> None:
    from airflow.serialization.encoders import coerce_to_core_timetable

    timetable = coerce_to_core_timetable(nightly.timetable)
    interval = timetable.infer_manual_data_interval(
        run_after=_pendulum(dt.datetime(2026, 3, 5, 4, 0, tzinfo=dt.UTC))
    )
    assert interval.start.date() == dt.date(2026, 3, 4)


def _pendulum(moment: dt.datetime) -> Any:
    import pendulum

    return pendulum.instance(moment)


def test_what_a_person_can_mend_fails_the_task_at_once_with_its_sentence(
    nightly: DAG, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise SourceError("events.csv row 3 has no user: correct it")

    run = nightly.get_task("train").python_callable
    monkeypatch.setitem(run.__globals__, "run_step", broken)
    with pytest.raises(MendFirstError, match=r"^events\.csv row 3 has no user: correct it$"):
        run("2026-03-01", params={"night": None})


def test_what_passes_by_itself_is_tried_again(
    nightly: DAG, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object) -> None:
        raise NotReadyError("the file is still written: it is tried again")

    run = nightly.get_task("train").python_callable
    monkeypatch.setitem(run.__globals__, "run_step", busy)
    with pytest.raises(TryAgainError, match=r"^the file is still written: it is tried again$"):
        run("2026-03-01", params={"night": None})


@pytest.mark.parametrize(
    ("raised", "fails", "says"),
    [
        (MendFirstError("events.csv has no user"), True, "events.csv has no user"),
        (TryAgainError("it is still written"), False, "it is still written"),
        (OSError("disk full"), False, "OSError: disk full"),
    ],
    ids=["a person's affair", "passes by itself", "unforeseen"],
)
def test_the_log_of_a_failed_task_ends_with_its_sentence(
    bag: Any, caplog: pytest.LogCaptureFixture, raised: BaseException, fails: bool, says: str
) -> None:
    for dag in bag.dags.values():
        for task in dag.tasks:
            # Airflow logs frames of what is an Exception, and none of what exits.
            assert isinstance(raised, Exception) is (says == f"{type(raised).__name__}: {raised}")
            # "Task exited" is logged with its code, before anything else is said.
            assert getattr(raised, "code", says) == says
            decision = task.retry_policy.evaluate(raised, 1, 3)
            assert (decision.action is RetryAction.FAIL) is fails
            for callbacks in (task.on_failure_callback, task.on_retry_callback):
                caplog.clear()
                callbacks[-1]({"exception": raised})
                assert [record.getMessage() for record in caplog.records] == [says]


def test_params_with_a_dot_change_the_settings_of_the_run(
    nightly: DAG, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    run = nightly.get_task("train").python_callable
    monkeypatch.setitem(run.__globals__, "run_step", lambda *given: seen.append(given) or {})
    given = {
        "night": "2026-03-01",
        "model.n_intents": 7,
        "promote.force": True,
        "recommend.top_k": 0,
        "source.path": None,
        "lake.root": "",
    }
    monkeypatch.setenv("ELCREC_RECOMMEND__TOP_K", "20")
    run("2026-03-01", params=given)
    name, settings, night = seen[0]
    assert (name, night) == ("train", dt.date(2026, 3, 1))
    assert settings.lake.root == load_settings().lake.root
    assert settings.model.n_intents == 7
    assert settings.promote.force is True
    assert settings.recommend.top_k == 0  # a field with 0 is not empty


def test_steps_find_the_connections_of_airflow(
    nightly: DAG, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    run = nightly.get_task("ingest").python_callable
    monkeypatch.setenv("AIRFLOW_CONN_EVENTS_DB", "postgres://me:p%40ss@db:5433/log?sslmode=prefer")
    monkeypatch.setitem(
        run.__globals__, "run_step", lambda *_: seen.append(postgres_uri("events_db")) or {}
    )
    run("2026-03-01", params={"night": None})
    [uri] = seen
    assert uri.startswith("postgresql://me:p%40ss@db:5433/log?")
    assert uri.endswith("&sslmode=prefer")
    monkeypatch.delenv("AIRFLOW_CONN_EVENTS_DB")
    with pytest.raises(MendFirstError, match=r"no connection events_db: add it to Airflow"):
        run("2026-03-01", params={"night": None})


def test_every_param_with_a_dot_is_a_setting(bag: Any) -> None:
    from tasks.settings import known_keys

    dotted = {name for dag in bag.dags.values() for name in dag.params if "." in name}
    assert "lake.root" in dotted and dotted <= set(known_keys())


@pytest.fixture
def events(tmp_path: Path) -> Path:
    """Ingest one night with two users into the lake below tmp_path."""
    file = tmp_path / "events.csv"
    file.write_text("user_id,item_id,ts\nann,a,2026-03-01T10:00:00Z\nbob,a,2026-03-01T11:00:00Z\n")
    changed = {"source.path": str(file), "lake.root": tmp_path / "lake"}
    run_step("ingest", load_settings(**changed), dt.date(2026, 3, 1))
    return tmp_path / "lake"


@pytest.mark.parametrize("by_file", [False, True])
def test_people_named_in_the_form_are_forgotten(bag: Any, events: Path, by_file: bool) -> None:
    users = events.parent / "users.txt"
    users.write_text("ann\n")
    run = bag.dags["forget_people"].get_task("forget").python_callable
    given = {"users_file": str(users)} if by_file else {"users": ["ann"]}
    params = {"users": None, "users_file": None, "lake.root": str(events), **given}
    report = run(params=params)
    assert report["tables"]["events"]["rows_removed"] == 1
    assert Lake(events).scan(tables.EVENTS).collect()["user_id"].to_list() == ["bob"]
    with pytest.raises(MendFirstError, match="no user is named"):
        run(params={"users": None, "users_file": None, "lake.root": str(events)})


def test_naming_an_intent_goes_by_the_form_and_by_who_triggers_it(
    bag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    monkeypatch.setattr("tasks.chores.naming.name", lambda *a, **k: given.append((a[1:], k)) or {})
    dag = bag.dags["name_intent"]
    run = dag.get_task("name").python_callable
    form = {"intent": 3, "name": None, "description": None, "by": None, "lake.root": "/l"}
    run(params=form, dag_run=SimpleNamespace(triggering_user_name="ann"))
    run(params=form | {"name": "Cooks", "description": "They cook.", "by": "ben"}, dag_run=None)
    assert given == [
        ((3, ""), {"description": None, "by": "ann"}),
        ((3, "Cooks"), {"description": "They cook.", "by": "ben"}),
    ]
    assert dag.schedule is None


def test_a_relabelling_that_cannot_be_fails_its_first_task(bag: Any, events: Path) -> None:
    run = bag.dags["relabel"].get_task("choose_nights").python_callable
    params = {"from": "2026-03-01", "to": "2026-03-01", "version": "x", "other_settings": False}
    with pytest.raises(MendFirstError, match=r"^there is no model x in .*none is trained"):
        run(params=params | {"lake.root": str(events)})


@pytest.mark.parametrize("task", ["one_night.label", "one_night.publish"])
def test_a_setting_that_is_wrong_fails_a_relabelled_night_at_once(bag: Any, task: str) -> None:
    run = bag.dags["relabel"].get_task(task).python_callable
    with pytest.raises(MendFirstError, match=r"^setting lake\.root .* write a URL as s3://"):
        run("2026-03-01", params={"version": "x", "lake.root": "gs://bucket/lake"})


def test_relabelled_nights_go_the_way_of_every_night_from_label_on(bag: Any, nightly: DAG) -> None:
    dag = bag.dags["relabel"]
    every_night = [task.task_id for task in nightly.topological_sort()]
    last_steps = every_night[every_night.index("label") :]
    tasks = [dag.get_task(f"one_night.{name}") for name in last_steps]
    assert len(dag.tasks) == 1 + len(tasks)
    assert tasks[0].upstream_task_ids == {"choose_nights"}
    for task, following in itertools.pairwise(tasks):
        assert task.downstream_task_ids == {following.task_id}
    outlets = [[outlet.name for outlet in task.outlets] for task in tasks]
    assert outlets == [[]] * (len(tasks) - 1) + [["intent_labels"]]


def test_refresh_looks_only_when_it_runs_dry_and_takes_the_form(
    bag: Any, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bag.dags["refresh"].get_task("run_stale").python_callable
    form = {"dry_run": False, "to": None, "not_known": False, "lake.root": str(events)}
    nothing = {"nights": {}, "left_as_they_are": {}, "not_known": []}
    assert run(params=form) == nothing
    said = [f"{events} has no labelled nights yet"]
    assert run(params=form | {"dry_run": True}) == {"dry_run": True, "stale": said}
    seen: list[Any] = []
    monkeypatch.setattr("tasks.chores.stale.refresh", lambda _, **given: seen.append(given) or {})
    run(params=form | {"to": "2026-03-01", "not_known": True})
    assert seen == [{"last": dt.date(2026, 3, 1), "not_known": True}]
    with pytest.raises(MendFirstError, match="there is no lake"):
        run(params=form | {"lake.root": str(events / "none"), "dry_run": True})


def test_a_refreshed_night_with_other_labels_is_told_as_a_nightly_one_is(
    bag: Any, events: Path, nightly: DAG, monkeypatch: pytest.MonkeyPatch
) -> None:
    dag = bag.dags["refresh"]
    order = [task.task_id for task in dag.topological_sort()]
    assert order == ["run_stale", "changed_nights", "tell"]
    assert all(a in dag.get_task(b).upstream_task_ids for a, b in itertools.pairwise(order))
    outlets = [outlet.name for task in dag.tasks for outlet in task.outlets]
    assert outlets == ["intent_labels"] and dag.get_task("tell").is_mapped
    night, given = dt.date(2026, 3, 1), {"lake.root": str(events)}
    settings = load_settings(**given)
    write_labels(settings, night, labels_of(night, ["ann", "bob"]))
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "manual__2026-03-05")
    publish(settings, night)
    [changed] = dag.get_task("changed_nights").python_callable(params=given)
    told = OutletEventAccessors()
    dag.get_task("tell").python_callable(changed, params=given, outlet_events=told)
    [asset] = nightly.get_task("publish").outlets
    assert told[asset].partition_keys == {"2026-03-01"}
    assert told[asset].extra["users"] == 2


def test_upkeep_runs_dry_or_not_and_only_where_nights_have_a_schedule(
    bag: Any, events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = bag.dags["upkeep"].get_task("take_out").python_callable
    for dry in (True, False):
        assert run(params={"dry_run": dry, "lake.root": str(events)})["dry_run"] is dry
    with pytest.raises(MendFirstError, match="there is no lake"):
        run(params={"dry_run": True, "lake.root": str(events / "none")})
    assert bag.dags["upkeep"].schedule == "@weekly"
    monkeypatch.setenv("ELCREC_AIRFLOW__SCHEDULE", "")
    file = REPO / "dags" / "upkeep.py"
    assert runpy.run_path(str(file))["upkeep"]().schedule is None


def test_the_example_downstream_counts_the_events_of_each_intent(
    events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.dag_processing.dagbag import DagBag

    examples = DagBag(dag_folder=str(REPO / "docs" / "examples"))
    assert examples.import_errors == {}
    dag = examples.dags["events_by_intent"]
    assert dag.timetable.asset_condition.name == "intent_labels"
    night = dt.date(2026, 3, 1)
    label = {"dt": night, "user_id": "ann", "intent_id": 4}
    empty = pl.from_arrow(tables.INTENT_LABELS.schema.empty_table())
    assert isinstance(empty, pl.DataFrame)
    labels = pl.concat([empty, pl.DataFrame([label])], how="diagonal_relaxed")
    Lake(events).replace(tables.INTENT_LABELS, labels.cast(dict(empty.schema)), nights=[night])
    monkeypatch.setenv("ELCREC_LAKE__ROOT", str(events))
    join = dag.get_task("join").python_callable
    assert [join(partition_key="2026-03-01") for _ in range(2)] == [2, 2]
    target = tables.Table("events_by_intent", join.__globals__["EVENTS_BY_INTENT"])
    counted = Lake(events).scan(target).select("intent_id", "users", "events").collect()
    assert sorted(counted.rows(), key=str) == [(4, 1, 1), (None, 1, 1)]
