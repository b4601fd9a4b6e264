"""Settings: what a wrong key says, and that the committed file and the defaults are one."""

import math
import re
import tomllib
from pathlib import Path

import pytest

from tasks.errors import SettingsError
from tasks.settings import REPO, Settings, known_keys, load_settings


def test_settings_file_holds_every_key_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    written = tomllib.loads((REPO / "settings.toml").read_text("utf-8"))
    monkeypatch.setattr("tasks.settings.settings_file", lambda: None)
    defaults = Settings().model_dump(mode="json")
    assert written == defaults


def test_every_setting_is_explained_in_the_file() -> None:
    lines = (REPO / "settings.toml").read_text("utf-8").splitlines()
    keys = {key.partition(".")[2] for key in known_keys()}
    for number, line in enumerate(lines):
        name = line.partition(" = ")[0]
        if name in keys:
            above = lines[number - 1]
            assert above.startswith(("#", *keys)) or name == "seed", f"{name} has no comment"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"source": {"pth": "x"}}, ["unknown setting source.pth", "source.path"]),
        ({"sources": {"path": "x"}}, ["unknown setting sources", "did you mean source"]),
        ({"source.format": "xml"}, ["source.format", "'xml': write one of 'auto', 'parquet'"]),
        ({"model": {"max_epochs": -1}}, ["model.max_epochs", "-1: write a number of at least 0"]),
        ({"evaluate": 3}, ["unknown setting evaluate"]),
        # It made models that could not be trained on once an intent was born.
        ({"model.overrides": {"n_intents": 32}}, ["model.overrides", "set model.n_intents"]),
        ({"model.overrides": {"dim": 8, "seed": 1}}, ["model.overrides", "set model.seed"]),
        ({"label.odds": 3}, ["label.odds", "called label.probability_ratio now"]),
        ({"lake.root": "gs://bucket/lake"}, ["lake.root", "write a URL as s3://bucket/folder"]),
        ({"lake.root": "s3://bucket/../lake"}, ["lake.root", "write a URL as s3://bucket/folder"]),
        ({"lake.root": "s3://key:secret@bucket/lake"}, ["lake.root", "write a URL as s3://"]),
        ({"lake.root": "a%20b"}, ["lake.root", "%"]),
        ({"source.separator": ""}, ["source.separator", "''", "one or more characters"]),
        ({"source.separator": '"'}, ["source.separator", "no quote"]),
        ({"duckdb.memory_limit": "lots"}, ["duckdb.memory_limit", "'lots'", '"8GB"']),
        ({"duckdb.memory_limit": "0GB"}, ["duckdb.memory_limit", "'0GB'"]),
        ({"airflow.schedule": "nonsense"}, ["airflow.schedule", "'nonsense'", '"@daily"']),
        (
            {"evaluate.cutoffs": [5, 0]},
            ["evaluate.cutoffs, element 2,", "0: write a number of at least 1"],
        ),
        ({"evaluate.cutoffs": []}, ["evaluate.cutoffs", "write at least 1 element"]),
    ],
)
def test_a_wrong_value_of_a_run_is_named(overrides: dict[str, object], says: list[str]) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings(**overrides)
    assert all(word in str(error.value) for word in says)
    assert "\n" not in str(error.value)


WRONG: list[object] = [
    *("words", "", -1, -1.5, 1e9, 0, 7, math.nan, math.inf, None, True, [], [1], ["a"], [None]),
    *({}, {"a": 1}, {"a": "b"}, {"a": None}, object()),
]


@pytest.mark.parametrize("key", list(known_keys()))
def test_no_sentence_on_a_value_is_pydantic_s(key: str) -> None:
    for value in WRONG:
        try:
            load_settings(**{key: value})
        except SettingsError as error:
            said = str(error)
            assert not re.search(r"[Ii]nput should|[Vv]alid |Value error|pydantic", said), said
            assert re.search(r": (write|name|no |mail and|object stores|a folder|$)", said), said


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("ELCREC_SOURCE__PTH", "x", ["ELCREC_SOURCE__PTH", "ELCREC_SOURCE__PATH"]),
        ("ELCREC_SOURCE", "x", ["ELCREC_SOURCE"]),
        ("ELCREC_LABEL__IDLE_ODDS", "3", ["called ELCREC_LABEL__IDLE_PROBABILITY_RATIO now"]),
        ("ELCREC_MODEL__MAX_EPOCHS", "many", ["model.max_epochs", "'many': write a whole number"]),
        ("ELCREC_EVALUATE__CUTOFFS", "5,10", ["JSON", "ELCREC_EVALUATE__CUTOFFS"]),
        ("ELCREC_SETTINGS", "nowhere.toml", ["ELCREC_SETTINGS", "nowhere.toml"]),
    ],
)
def test_a_wrong_environment_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: list[str]
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert all(word in str(error.value) for word in says)


@pytest.mark.parametrize(
    "values",
    [
        {"duckdb.memory_limit": "512 MiB", "airflow.schedule": "30 2 * * *"},
        {"duckdb.memory_limit": "50%", "airflow.schedule": "@weekly", "source.separator": "::"},
        {"duckdb.memory_limit": "", "airflow.schedule": "", "source.separator": "auto"},
    ],
)
def test_sizes_schedules_and_separators_are_taken(values: dict[str, str]) -> None:
    settings = load_settings(**values)
    for name, value in values.items():
        section, key = name.split(".")
        assert getattr(getattr(settings, section), key) == value


def test_overrides_of_the_environment_are_numbers_where_they_look_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"DIM": "128", "DROPOUT": "0.5", "ENCODER": "gru", "X": "[1, 2]"}.items():
        monkeypatch.setenv(f"ELCREC_MODEL__OVERRIDES__{name}", value)
    overrides = load_settings().model.overrides
    assert overrides == {"dim": 128, "dropout": 0.5, "encoder": "gru", "x": [1, 2]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[source]\nformt = 'csv'\n", ["source.formt", "mine.toml", "source.format"]),
        ("[source\n", ["mine.toml", "no valid TOML"]),
        ("[quality]\nmin_events = 0\n", ["quality.min_events", "mine.toml"]),
    ],
)
def test_a_fault_of_the_file_names_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, says: list[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    monkeypatch.setenv("ELCREC_SETTINGS", str(file))
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert all(word in str(error.value) for word in says)


def test_a_run_goes_before_the_environment_and_that_before_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[model]\nseed = 1\npatience = 1\nmax_epochs = 1\n")
    monkeypatch.setenv("ELCREC_SETTINGS", str(file))
    monkeypatch.setenv("ELCREC_MODEL__SEED", "2")
    monkeypatch.setenv("ELCREC_MODEL__PATIENCE", "2")
    model = load_settings(**{"model.seed": "3"}).model
    assert (model.seed, model.patience, model.max_epochs) == (3, 2, 1)
    assert model.max_length == 50


def test_relative_paths_are_taken_from_the_folder_of_the_settings_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("[source]\npath = 'events'\n")
    monkeypatch.setenv("ELCREC_SETTINGS", str(file))
    monkeypatch.chdir("/")
    settings = load_settings()
    assert settings.source.path == str(tmp_path / "events")
    assert settings.lake.root == tmp_path / "lake"
