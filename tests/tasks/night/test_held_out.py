"""Of many users a part is held out: models learn all that the others did, and are judged by it."""

import datetime as dt
import logging
import random
from typing import Any

import numpy as np
import polars as pl
import pytest

from elcrec import ELCRec, Histories
from elcrec.evaluation import hit_rate_and_ndcg, is_repeat, popularity_ranks
from elcrec.histories import leave_one_out
from tasks.errors import SettingsError
from tasks.lake import Lake, tables
from tasks.night.evaluate import evaluate
from tasks.night.promote import promote
from tasks.night.train import train
from tasks.registry.histories import trainable_users
from tasks.registry.identity import identify
from tasks.settings import PromoteSettings, Settings, load_settings
from tests.tasks.nights import NIGHT, SMALL_MODEL, small_settings, table, write_histories

NEXT_NIGHT = NIGHT + dt.timedelta(days=1)
TINY = SMALL_MODEL | {"n_intents": 2, "max_epochs": 2, "overrides": {"dim": 8, "layers": 1}}
USERS, ITEMS = 420, 20


def histories(users: int = USERS) -> dict[str, list[int]]:
    chance = random.Random(3)
    return {
        f"u{user}": [1 + (user + step * chance.randint(1, 2)) % ITEMS for step in range(6)]
        for user in range(users)
    }


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Give settings by which a quarter of the users is held out."""
    write_histories(settings, NIGHT, histories())
    return small_settings(settings.lake.root, model=TINY | {"held_out_users": 100})


def all_held_out(settings: Settings) -> Settings:
    return small_settings(settings.lake.root, model=TINY | {"held_out_users": 0})


def figures(settings: Settings, night: dt.date, version: str) -> dict[str, float]:
    rows = table(settings, tables.METRICS, night).filter(
        model_version=version, split="test", slice="all"
    )
    return dict(rows.select("metric", "value").iter_rows())


@pytest.mark.slow
def test_models_learn_the_others_whole_and_are_judged_by_those_held_out(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    learned: list[Histories] = []
    asked: list[Any] = []
    fit = ELCRec.fit

    def watched(self: ELCRec, of: Histories, **given: Any) -> ELCRec:
        learned.append(of)
        asked.append(given["held_out"])
        return fit(self, of, **given)

    monkeypatch.setattr(ELCRec, "fit", watched)
    caplog.set_level(logging.INFO)
    version = train(settings, NIGHT)["model_version"]
    users = trainable_users(settings, NIGHT)
    held_out = users.held_out(4)
    assert 60 < held_out.sum() < 160
    assert (asked[0] == held_out).all()
    assert f"the newest two of {held_out.sum()} are held out" in caplog.text
    row = table(settings, tables.MODELS).row(0, named=True)
    assert row["held_out_one_in"] == 4

    summary = evaluate(settings, NIGHT)
    assert summary["users"] == held_out.sum()
    assert figures(settings, NIGHT, version)["users"] == held_out.sum()

    side = leave_one_out(learned[0].take(np.flatnonzero(held_out)), "test")
    repeats = is_repeat(side)
    model = ELCRec.load(Lake(settings.lake.root).model_dir(version))
    # All events but those to be found, also the newest of those who are not held out.
    width = ITEMS + 1
    counts = np.bincount(learned[0].items, minlength=width) - np.bincount(side.targets, None, width)
    ranks = {
        version: model.ranks(side, repeats),
        "popularity": popularity_ranks(side, counts, repeats),
    }
    for name, of_one in ranks.items():
        assert figures(settings, NIGHT, name)["NDCG@20"] == pytest.approx(
            hit_rate_and_ndcg(of_one, [20])["NDCG@20"]
        )


def test_few_users_are_all_held_out_and_their_models_keep_their_names(settings: Settings) -> None:
    few = small_settings(settings.lake.root, model=TINY | {"held_out_users": 5_000})
    assert identify(few, NIGHT).held_out_one_in == 1
    assert identify(few, NIGHT).version == identify(all_held_out(settings), NIGHT).version
    assert identify(settings, NIGHT).held_out_one_in == 4
    assert identify(settings, NIGHT).version != identify(few, NIGHT).version


@pytest.mark.slow
def test_models_are_compared_on_users_whom_none_of_them_learned_whole(settings: Settings) -> None:
    before = all_held_out(settings)
    first = train(before, NIGHT)["model_version"]
    evaluate(before, NIGHT)
    force = {"promote": PromoteSettings(force=True)}
    promote(before.model_copy(update=force), NIGHT)
    write_histories(settings, NEXT_NIGHT, histories())
    second = train(settings, NEXT_NIGHT)
    assert second["trained_on_from"] == first, "what is held out is no other kind of model"
    evaluate(settings, NEXT_NIGHT)
    held_out = trainable_users(settings, NEXT_NIGHT).held_out(4).sum()
    assert figures(settings, NEXT_NIGHT, first)["users"] == held_out
    # The night after, everybody is held out again: the model before has learned most of them.
    last = NEXT_NIGHT + dt.timedelta(days=1)
    promote(settings.model_copy(update=force), NEXT_NIGHT)
    write_histories(settings, last, histories())
    third = train(before, last)["model_version"]
    evaluate(before, last)
    assert figures(settings, last, third)["users"] == held_out
    assert figures(settings, last, second["model_version"])["users"] == held_out


def test_a_lake_from_before_held_everybody_out(settings: Settings) -> None:
    train(all_held_out(settings), NIGHT)
    rows = table(settings, tables.MODELS)
    lake = Lake(settings.lake.root)
    lake.replace(
        tables.SEQUENCE_INPUTS,
        pl.DataFrame(tables.SEQUENCE_INPUTS.schema.empty_table()),
        nights=[NIGHT],
    )
    assert rows["held_out_one_in"].to_list() == [1]
    assert identify(settings, NIGHT).held_out_one_in == 4, "counted anew where it is not recorded"


def test_too_few_to_judge_by_are_refused() -> None:
    with pytest.raises(SettingsError, match="100 or more, or 0 for all"):
        load_settings(model={"held_out_users": 99})
