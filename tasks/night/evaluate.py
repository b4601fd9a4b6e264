"""Judge the night's model on held-out events, next to popularity and the last promoted model.

Leave-one-out over the users with three events or more: the newest event of each is the target,
every item is ranked but those the user has had. What the labels are worth is measured on labels
made from all but the two newest events. Definitions: `elcrec.evaluation` and `elcrec.intents`.

By time, the other way to judge, is what the last promoted model would have made of this night: it
was trained on nights before, and the first event of the night is the target of each user who had a
history by then. This alone says what tomorrow brings; of the night's own model it can be said the
night after. Leave-one-out takes all users with three events and holds out events of all times, so
it compares two models on many more users, and `promote` goes by it.

How far the night's model is from the last promoted one, and how sure that is, is measured by the
paired bootstrap over the same users (`elcrec.comparison`). `promote` decides by these figures.
"""

import datetime as dt
import logging
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from elcrec import ELCRec, Histories
from elcrec.comparison import paired_change
from elcrec.errors import ELCRecError
from elcrec.evaluation import (
    hit_rate_and_ndcg,
    ndcg_of_users,
    popularity_baseline,
    popularity_ranks,
)
from elcrec.histories import Split, leave_one_out
from elcrec.intents import intent_hits, largest_share, perplexity, utilisation
from tasks.errors import ModelError
from tasks.lake import Lake, tables
from tasks.lake.duck import connect, sql
from tasks.registry.figures import (
    ALL_USERS,
    BY_TIME,
    CHURN,
    CUTOFF,
    IDLE_USERS,
    LABELS,
    LARGEST_SHARE,
    LIFT,
    NDCG,
    POPULARITY,
    SPLIT,
    UTILISATION,
    Metrics,
    against,
    change_of,
)
from tasks.registry.histories import trainable_histories
from tasks.registry.identity import model_of_night
from tasks.registry.labelling import USERS_A_BATCH, label_batch, labelled_histories, last_labelled
from tasks.registry.versions import promoted
from tasks.registry.vocabulary import model_numbers, renumbered
from tasks.registry.weights import Loaded, load
from tasks.settings import Settings

log = logging.getLogger(__name__)

# Churn is measured on about so many users at most: their share is within 0.3 % of that of all.
CHURN_USERS = 262_144


@dataclass(frozen=True)
class Judged:
    """What was measured of a model: over all users, and of each of them `[n]`."""

    metrics: Metrics
    ndcg: npt.NDArray[np.float32]
    hits: npt.NDArray[np.bool_]  # by the user's intent


def evaluate(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Measure the night's model, popularity and the last promoted model on the night's histories.

    Replaces the night's partition of `metrics`.

    Raises ModelError when the night's model is not trained, or when the last promoted one cannot
    be read and so nothing protects the labels (unless promote.force is set).
    """
    lake = Lake(settings.lake.root)
    version = model_of_night(settings, night).version
    by_index = trainable_histories(settings, night)
    # NDCG@20 decides what is promoted, whatever cutoffs are asked for.
    cutoffs = sorted({*settings.evaluate.cutoffs, CUTOFF})

    model = load(settings, version)
    numbers = model_numbers(lake, model.item_ids)
    histories = renumbered(by_index, numbers)
    n_items = len(model.item_ids)
    new = judge(model.model, histories, histories, n_items, cutoffs)
    measured = {
        version: new.metrics,
        POPULARITY: popularity_baseline(histories, n_items, SPLIT, cutoffs),
    }
    rows = _Rows(night)
    last = promoted(lake, until=night - dt.timedelta(days=1))
    if last is not None and last[0] != version:
        try:
            earlier = load(settings, last[0])
            as_known = renumbered(by_index, model_numbers(lake, earlier.item_ids))
            old = judge(earlier.model, as_known, histories, n_items, cutoffs)
        except ModelError as error:
            if not settings.promote.force:
                raise ModelError(
                    f"{error}; until then nothing can be compared with it, unless promote.force "
                    "is set to label with the new model unseen"
                ) from error
            log.warning("%s; left out, because promote.force is set", error)
        else:
            measured[last[0]] = old.metrics
            changes = compare(new, old, settings)
            log.info("%s against %s: %s", version, last[0], _listed(changes))
            rows.add(version, SPLIT, against(last[0]), changes)
            by_time = judge_by_time(settings, night, last[0], earlier, model.item_ids, cutoffs)
            for name, metrics in by_time.items():
                log.info("%s by time: %s", name, _listed(metrics))
                rows.add(name, BY_TIME, ALL_USERS, metrics)

    for users, metrics in churn(settings, night, model, numbers, version).items():
        log.info("%s, labels of %s users: %s", version, users, _listed(metrics))
        rows.add(version, LABELS, users, metrics)

    for name, metrics in measured.items():
        log.info("%s: %s", name, _listed(metrics))
        rows.add(name, SPLIT, ALL_USERS, metrics)
    lake.replace(tables.METRICS, rows.frame(), nights=[night])
    return {"model_version": version, "users": len(histories), "metrics": measured}


def judge(
    model: ELCRec, as_known: Histories, histories: Histories, n_items: int, cutoffs: list[int]
) -> Judged:
    """Measure one model: HR and NDCG at the cutoffs, and what its labels are worth.

    as_known: the histories in the model's own numbers, which an earlier model has of its own.
    histories: the same in the numbers of the night, 1 to n_items.
    Raises ModelError when the model cannot be applied to the histories.
    """
    try:
        ranks = model.ranks(leave_one_out(as_known, SPLIT))
        intents = model.transform(as_known.drop_last(2)).intent
    except ELCRecError as error:
        raise ModelError(f"the model cannot be evaluated: {error}") from error
    n_intents = model.config.n_intents
    metrics = hit_rate_and_ndcg(ranks, cutoffs) | {
        "n_intents": float(n_intents),
        "perplexity": perplexity(intents),
        UTILISATION: utilisation(intents, n_intents),
        LARGEST_SHARE: largest_share(intents),
    }
    side = leave_one_out(histories, SPLIT)
    hits = intent_hits(intents, histories.drop_last(2), side, n_items, CUTOFF)
    try:
        metrics[LIFT] = hits.lift
    except ELCRecError as error:  # popularity hits nothing: a ratio to it means nothing
        log.warning("%s is left out: %s", LIFT, error)
    return Judged(metrics, ndcg_of_users(ranks, CUTOFF), hits.by_intent)


def judge_by_time(
    settings: Settings,
    night: dt.date,
    version: str,
    earlier: Loaded,
    item_ids: pl.Series,
    cutoffs: list[int],
) -> dict[str, Metrics]:
    """Measure a model of an earlier night, and popularity until then, on the events of the night.

    item_ids: the items of the night, which popularity ranks. The model ranks those that it knows: a
    target that it does not is a miss (`unknown_targets` is the share of these).
    Nothing when no user with a history has an event of the night.
    """
    lake = Lake(settings.lake.root)
    numbers, n_items = model_numbers(lake, item_ids), len(item_ids)
    with connect(settings) as con:
        for table in (tables.SEQUENCES, tables.EVENTS):
            lake.view(con, table, first=night, last=night)
        lake.view(con, tables.ITEMS)
        found = con.sql(sql("time_split")).to_arrow_table()
    before = Histories.from_arrow(found.column("items"))
    targets = found.column("target").fill_null(0).to_numpy()
    users = np.flatnonzero(targets)
    if not users.size:
        return {}
    history, target = before.take(users), targets[users]
    counts = np.bincount(renumbered(before, numbers).items, minlength=n_items + 1)
    side = Split(renumbered(history, numbers), numbers[target])
    own = model_numbers(lake, earlier.item_ids)
    known_as = Split(renumbered(history, own), own[target])
    try:
        ranks = earlier.model.ranks(known_as)
        intents = earlier.model.transform(known_as.histories).intent
    except ELCRecError as error:
        raise ModelError(f"model {version} cannot be evaluated: {error}") from error
    n_users = {"users": float(users.size)}
    metrics = n_users | hit_rate_and_ndcg(ranks, cutoffs)
    metrics["unknown_targets"] = float((known_as.targets > len(earlier.item_ids)).mean())
    hits = intent_hits(intents, side.histories, side, n_items, CUTOFF)
    if hits.by_popularity.any():
        metrics[LIFT] = hits.lift
    popular = n_users | hit_rate_and_ndcg(popularity_ranks(side, counts), cutoffs)
    return {version: metrics, POPULARITY: popular}


def compare(new: Judged, old: Judged, settings: Settings) -> Metrics:
    """Measure the relative change of NDCG@20 and intent lift@20 from one model to another.

    Of each the estimate and its one-sided bounds by the paired bootstrap. Lift is a ratio to the
    hits of popularity, which are the same for both models: its change is that of the hits.
    """
    changes: Metrics = {}
    for metric, of_new, of_old in ((NDCG, new.ndcg, old.ndcg), (LIFT, new.hits, old.hits)):
        change = paired_change(
            of_new,
            of_old,
            resamples=settings.evaluate.resamples,
            confidence=settings.evaluate.confidence,
            seed=settings.model.seed,
        )
        changes |= {change_of(metric, bound): value for bound, value in asdict(change).items()}
    return changes


def churn(
    settings: Settings,
    night: dt.date,
    model: Loaded,
    numbers: npt.NDArray[np.int32],
    version: str,
) -> dict[str, Metrics]:
    """Count the users whose label would not be that of the last labelled night before this one.

    numbers: the model's number of each item_index (`model_numbers`).

    Of all users with a label then, and of the idle ones among them, who have had no event since.
    The labels are those that `label` would write with this model and the settings under `label`. A
    user who would be left without one counts as changed. Nothing without earlier labels.
    """
    lake = Lake(settings.lake.root)
    users: dict[str, list[int]] = {ALL_USERS: [0, 0], IDLE_USERS: [0, 0]}  # all and changed
    with connect(settings) as con:
        previous = last_labelled(lake, before=night)
        labelled = labelled_histories(con, lake, night, previous).filter("previous_id IS NOT NULL")
        [(count,)] = labelled.aggregate("count(*)").fetchall()
        parts = -(-count // CHURN_USERS) or 1
        sample = labelled.filter(f"hash(user_id) % {parts} = 0")
        for batch in sample.to_arrow_reader(USERS_A_BATCH):
            labels = label_batch(batch, model, numbers, night, version, settings.label, previous)
            before = batch.column("previous_id").to_numpy()
            changed = labels.column("intent_id").fill_null(-1).to_numpy() != before
            idle = batch.column("idle").to_numpy(zero_copy_only=False)
            for name, mine in ((ALL_USERS, np.ones_like(idle)), (IDLE_USERS, idle)):
                users[name][0] += int(np.count_nonzero(mine))
                users[name][1] += int(np.count_nonzero(changed & mine))
    return {
        name: {"users": float(all_users), CHURN: changed_users / all_users}
        for name, (all_users, changed_users) in users.items()
        if all_users
    }


class _Rows:
    """Rows of `metrics`, of one night."""

    def __init__(self, night: dt.date) -> None:
        self._night = night
        self._rows: list[tuple[dt.date, str, str, str, str, float]] = []

    def add(self, version: str, split: str, users: str, metrics: Metrics) -> None:
        """Add the figures of a model on a split, over a slice of the users."""
        for metric, value in metrics.items():
            self._rows.append((self._night, version, split, users, metric, value))

    def frame(self) -> pl.DataFrame:
        return pl.DataFrame(self._rows, schema=tables.METRICS.schema.names, orient="row")


def _listed(metrics: Metrics) -> str:
    return "  ".join(f"{metric} {value:.4f}" for metric, value in metrics.items())
