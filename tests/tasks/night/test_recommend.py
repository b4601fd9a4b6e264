"""Recommendations of a night: the model's own, whole partitions, the same every time, or none."""

import datetime as dt
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pytest

from elcrec import ELCRec, Histories
from tasks.errors import LakeError, ModelError, QualityError
from tasks.lake import Lake, tables
from tasks.night.label import label
from tasks.night.quality import check_labels
from tasks.night.recommend import recommend
from tasks.registry.identity import model_of_night
from tasks.registry.vocabulary import model_numbers, renumbered
from tasks.registry.weights import load
from tasks.settings import REPO, Settings
from tests.tasks.nights import NIGHT, no_file_larger_than, small_settings, table, write_histories

NEXT_NIGHT = NIGHT + dt.timedelta(days=1)
TOP_K = 20


def asking(settings: Settings, **asked: Any) -> Settings:
    return small_settings(settings.lake.root, recommend={"top_k": TOP_K} | asked)


@pytest.fixture
def asked(night_done: Settings) -> Settings:
    """Give settings that ask for recommendations, on a lake whose night is labelled."""
    return asking(night_done)


def rows(settings: Settings, night: dt.date = NIGHT) -> pl.DataFrame:
    return Lake(settings.lake.root).scan(tables.USER_RECOMMENDATIONS, night, night).collect()


def lists(settings: Settings, night: dt.date = NIGHT) -> dict[str, list[tuple[str, float]]]:
    """Return items and scores by user."""
    found = rows(settings, night)
    return {
        user: [(item["item_id"], item["score"]) for item in items]
        for user, items in found.select("user_id", "items").iter_rows()
    }


def histories_of(settings: Settings, night: dt.date = NIGHT) -> dict[str, list[str]]:
    names = dict(table(settings, tables.ITEMS).select("item_index", "item_id").iter_rows())
    found = table(settings, tables.SEQUENCES, night).select("user_id", "items")
    return {user: [names[item] for item in items] for user, items in found.iter_rows()}


def by_the_library(settings: Settings, k: int, exclude_seen: bool) -> list[list[tuple[str, float]]]:
    """Rank with the model of the labels itself, user by user in the order of `sequences`."""
    model = load(settings, model_of_night(settings, NIGHT).version)
    numbers = model_numbers(Lake(settings.lake.root), model.item_ids)
    histories = table(settings, tables.SEQUENCES, NIGHT).sort("user_id")["items"].to_list()
    known = renumbered(Histories.from_lists(histories), numbers)
    items, scores = model.model.recommend(known, k, exclude_seen)
    return [
        [(model.item_ids[item - 1], score) for item, score in zip(*row, strict=True) if item]
        for row in zip(items.tolist(), scores.tolist(), strict=True)
    ]


@pytest.mark.parametrize("leave_out_had", [True, False])
def test_every_user_gets_what_the_model_of_the_labels_ranks_first(
    night_done: Settings, leave_out_had: bool
) -> None:
    settings = asking(night_done, leave_out_had=leave_out_had)
    summary = recommend(settings, NIGHT)
    found, histories = rows(settings), histories_of(settings)
    version = model_of_night(settings, NIGHT).version
    assert found["user_id"].to_list() == sorted(histories), "a row a user, in their order"
    assert set(found["model_version"]) == {version}
    assert summary == {
        "model_version": version,
        "top_k": TOP_K,
        "users": len(histories),
        "users_without_items": 0,
    }
    expected = by_the_library(settings, TOP_K, leave_out_had)
    for (user, ranked), ideal in zip(lists(settings).items(), expected, strict=True):
        assert [item for item, _ in ranked] == [item for item, _ in ideal]
        assert [score for _, score in ranked] == pytest.approx(
            [score for _, score in ideal], abs=6e-4
        )
        assert len(ranked) == TOP_K
        had = {item for item, _ in ranked} & set(histories[user])
        assert not (leave_out_had and had)
    repeated = [
        user
        for user, items in lists(settings).items()
        if {i for i, _ in items} & set(histories[user])
    ]
    assert bool(repeated) != leave_out_had


def test_recommendations_do_not_depend_on_the_size_of_batches(
    asked: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommend(asked, NIGHT)
    before = lists(asked)
    monkeypatch.setattr("tasks.night.recommend.USERS_A_BATCH", 37)
    recommend(asked, NIGHT)
    after = lists(asked)
    assert after.keys() == before.keys()
    for user, items in before.items():
        assert [item for item, _ in after[user]] == [item for item, _ in items]
        np.testing.assert_allclose(
            [score for _, score in after[user]], [score for _, score in items], atol=1.1e-3
        )


def test_without_top_k_there_are_no_rows_and_those_of_before_go(asked: Settings) -> None:
    off = small_settings(asked.lake.root)
    assert off.recommend.top_k == 0, "the default"
    nothing = {"top_k": 0, "users": 0, "users_without_items": 0}
    assert recommend(off, NIGHT) == nothing
    assert not (Lake(asked.lake.root).root / "user_recommendations").exists()
    recommend(asked, NIGHT)
    assert rows(asked).height
    assert recommend(off, NIGHT) == nothing
    assert rows(asked).is_empty()


@pytest.mark.slow
def test_a_step_that_is_off_loads_no_torch(night_done: Settings) -> None:
    code = (
        "import sys, datetime\n"
        "from tasks.steps import run_step\n"
        "from tests.tasks.nights import small_settings\n"
        "settings, night = small_settings(sys.argv[1]), datetime.date.fromisoformat(sys.argv[2])\n"
        "run_step('recommend', settings, night)\n"
        "assert 'torch' not in sys.modules\n"
    )
    arguments = [str(night_done.lake.root), NIGHT.isoformat()]
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=REPO, check=True)


def test_a_rerun_leaves_the_same_rows_and_another_k_takes_their_place(asked: Settings) -> None:
    recommend(asked, NIGHT)
    before = rows(asked)
    recommend(asked, NIGHT)
    assert rows(asked).equals(before)
    recommend(asking(asked, top_k=3), NIGHT)
    assert rows(asked).equals(before.with_columns(pl.col("items").list.head(3)))


@pytest.mark.slow
def test_users_of_few_or_no_known_items_and_users_who_have_had_nearly_all(asked: Settings) -> None:
    model = load(asked, model_of_night(asked, NIGHT).version)
    numbers = model_numbers(Lake(asked.lake.root), model.item_ids)
    known = np.flatnonzero(numbers <= model.model.n_items)[1:].tolist()
    histories = {
        "all": known,
        "all-but-two": known[2:],
        "mixed": [4321, known[0]],
        "none": [],
        "one": [known[0]],
        "unknown": [4321],
    }
    write_histories(asked, NEXT_NIGHT, histories)
    label(asked, NEXT_NIGHT)
    summary = recommend(asked, NEXT_NIGHT)
    found = lists(asked, NEXT_NIGHT)
    assert {user: len(items) for user, items in found.items()} == {
        "all": 0,
        "all-but-two": 2,
        "mixed": TOP_K,
        "none": 0,
        "one": TOP_K,
        "unknown": 0,
    }
    assert summary["users"] == 6 and summary["users_without_items"] == 3
    assert {item for item, _ in found["all-but-two"]} == {f"i{number}" for number in known[:2]}
    assert found["mixed"] == found["one"], "what the model does not know says nothing"
    assert np.isfinite([score for items in found.values() for _, score in items]).all()


def test_more_items_than_there_are_gives_all_of_them(night_done: Settings) -> None:
    settings = asking(night_done, top_k=1000, leave_out_had=False)
    recommend(settings, NIGHT)
    n_items = load(settings, model_of_night(settings, NIGHT).version).model.n_items
    assert {len(items) for items in lists(settings).values()} == {n_items}


def test_the_model_is_that_of_the_labels_whichever_is_promoted(asked: Settings) -> None:
    lake = Lake(asked.lake.root)
    write_histories(asked, NEXT_NIGHT, {"a": [1, 2, 3], "b": [4]})
    label(asked, NEXT_NIGHT)
    models = table(asked, tables.MODELS, NIGHT)
    later = models.with_columns(dt=NEXT_NIGHT, model_version=pl.lit("20261121-00000000"))
    lake.replace(tables.MODELS, later, nights=[NEXT_NIGHT])
    recommend(asked, NEXT_NIGHT)
    assert set(rows(asked, NEXT_NIGHT)["model_version"]) == set(models["model_version"])


# Runs recommend in a process of its own, which kills itself in the third batch.
KILLED_RUN = """
import datetime, os, signal, sys
import tasks.night.recommend
from elcrec import ELCRec
from tests.tasks.nights import small_settings

tasks.night.recommend.USERS_A_BATCH = 100
ranked, batches = ELCRec.recommend, []

def recommend_and_die(self, *arguments, **more):
    batches.append(arguments)
    if len(batches) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return ranked(self, *arguments, **more)

ELCRec.recommend = recommend_and_die
settings = small_settings(sys.argv[1], recommend={"top_k": 5})
tasks.night.recommend.recommend(settings, datetime.date.fromisoformat(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("done_before", [False, True])
def test_a_run_killed_in_the_middle_leaves_the_rows_of_before_and_a_rerun_completes_it(
    asked: Settings, done_before: bool
) -> None:
    if done_before:
        recommend(asked, NIGHT)
    before = rows(asked)
    arguments = [str(asked.lake.root), NIGHT.isoformat()]
    killed = subprocess.run([sys.executable, "-c", KILLED_RUN, *arguments], cwd=REPO, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert rows(asked).equals(before)
    recommend(asked, NIGHT)
    assert rows(asked).height == table(asked, tables.SEQUENCES, NIGHT).height


def test_a_disk_that_is_full_leaves_the_rows_as_they_were(asked: Settings) -> None:
    recommend(asking(asked, top_k=2), NIGHT)
    before = rows(asked)
    with no_file_larger_than(1000), pytest.raises(Exception, match="File too large"):
        recommend(asked, NIGHT)
    assert rows(asked).equals(before)


def test_bad_states_end_in_one_sentence_and_leave_the_table_as_it_was(
    asked: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    recommend(asked, NIGHT)
    before = rows(asked)
    with pytest.raises(LakeError, match=r"intent_labels has no rows for night .*-21: run label"):
        recommend(asked, NEXT_NIGHT)

    def without_numbers(
        self: ELCRec, histories: Histories, k: int, exclude_seen: bool
    ) -> tuple[Any, Any]:
        shape = len(histories), k
        return np.zeros(shape, np.int32), np.full(shape, np.nan, np.float32)

    with monkeypatch.context() as patched:
        patched.setattr(ELCRec, "recommend", without_numbers)
        with pytest.raises(ModelError, match="scores that are no numbers") as caught:
            recommend(asked, NIGHT)
        assert "\n" not in str(caught.value)
    lake = Lake(asked.lake.root)
    sequences = table(asked, tables.SEQUENCES, NIGHT)
    lake.replace(tables.SEQUENCES, sequences.clear(), nights=[NIGHT])
    with pytest.raises(LakeError, match=r"sequences has no rows for night .*run build-sequences"):
        recommend(asked, NIGHT)
    lake.replace(tables.SEQUENCES, sequences, nights=[NIGHT])
    version = model_of_night(asked, NIGHT).version
    shutil.rmtree(lake.model_dir(version))
    with pytest.raises(ModelError, match=rf"{version} .*the folder is missing.*run train"):
        recommend(asked, NIGHT)
    assert rows(asked).equals(before)


def without_a_user(found: pl.DataFrame) -> pl.DataFrame:
    return found.tail(-1)


def of_another_model(found: pl.DataFrame) -> pl.DataFrame:
    return found.with_columns(model_version=pl.lit("20261109-abcdef01"))


def of_a_stranger(found: pl.DataFrame) -> pl.DataFrame:
    return pl.concat([found, found.head(1).with_columns(user_id=pl.lit("nobody"))])


def in_reverse(found: pl.DataFrame) -> pl.DataFrame:
    return found.with_columns(pl.col("items").list.reverse())


def twice(found: pl.DataFrame) -> pl.DataFrame:
    return found.with_columns(pl.col("items").list.gather([0, 0, 1]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (without_a_user, r"every label has recommendations of the same model \(found 1,"),
        (of_another_model, r"every label has recommendations of the same model"),
        (of_a_stranger, r"whoever has recommendations has a label \(found 1,"),
        (in_reverse, "the scores of recommended items are numbers that fall by rank"),
        (twice, "no recommended item is missing or named twice"),
        (None, "no user is recommended an item of the history"),
    ],
)
def test_faulty_recommendations_stop_the_night(
    asked: Settings, broken: Callable[[pl.DataFrame], pl.DataFrame] | None, says: str
) -> None:
    recommend(asking(asked, leave_out_had=broken is not None), NIGHT)
    if broken:
        faulty = broken(rows(asked))
        Lake(asked.lake.root).replace(tables.USER_RECOMMENDATIONS, faulty, nights=[NIGHT])
    with pytest.raises(QualityError, match=says) as caught:
        check_labels(asked, NIGHT)
    assert "run recommend of the night again" in str(caught.value)


@pytest.mark.slow
def test_good_recommendations_pass_and_none_are_looked_at_where_none_are_asked_for(
    asked: Settings,
) -> None:
    off = check_labels(small_settings(asked.lake.root), NIGHT)
    assert "checked_recommendations" not in off["pages"]
    recommend(asked, NIGHT)
    on = check_labels(asked, NIGHT)
    assert on["warnings"] == [] and "checked_recommendations" in on["pages"]
    assert on["expectations"] == off["expectations"] + 6
    with_had = asking(asked, leave_out_had=False)
    recommend(with_had, NIGHT)
    assert check_labels(with_had, NIGHT)["warnings"] == []


@pytest.mark.slow
def test_a_user_who_has_had_all_items_is_a_warning(asked: Settings) -> None:
    numbers = model_numbers(
        Lake(asked.lake.root), load(asked, model_of_night(asked, NIGHT).version).item_ids
    )
    histories = {"all": np.flatnonzero(numbers < len(numbers))[1:].tolist(), "one": [1], "two": [9]}
    write_histories(asked, NEXT_NIGHT, histories)
    label(asked, NEXT_NIGHT)
    recommend(asked, NEXT_NIGHT)
    generous = {"max_label_share": 1.0}
    settings = small_settings(asked.lake.root, recommend={"top_k": 5}, quality=generous)
    warnings = check_labels(settings, NEXT_NIGHT)["warnings"]
    assert any("every user with an intent is recommended something (found 1" in w for w in warnings)
