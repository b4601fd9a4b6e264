"""Judge the night's model on held-out events, next to simple baselines and the models before it.

Leave-one-out over the users who are held out (`tasks.registry.held_out`), where users are few all
with three events or more: the newest event of each is the target, and what a model may see of them
ends before it. What the labels are worth is measured on labels of all users, those of the held-out
users made from all but their two newest events.
Definitions: `elcrec.evaluation`, `elcrec.baselines` and `elcrec.intents`.

A target that is new to its user is ranked among the items that the user has not had: that is the
published protocol. In many logs most newest events are of an item that the user has had before.
Such a repeat would win there by default, so it is ranked among all items and told apart. `promote`
goes by the new ones.

By time, the other way to judge, is what the last promoted model would have made of this night: it
was trained on nights before, and the first event of the night is the target of each user who had a
history by then. This alone says what tomorrow brings; of the night's own model it can be said the
night after. Leave-one-out takes users whether they came tonight or not, and holds out events of all
times, so it compares two models on many more users, and `promote` goes by it.

Where histories hold types, all of this is measured for single types of events, too
(`evaluate.types`): what a model and its labels are worth for purchases, not only for views. Nothing
is decided by that.

The night's model is compared with the last promoted one, with the anchor (the model of the last
training from scratch that the last promoted one goes back to: against it small steps add up), and
with baselines. How far they are apart, and how sure that is, is measured by the paired bootstrap
over the same users (`elcrec.comparison`). `promote` decides by these figures.
"""

import datetime as dt
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from elcrec import ELCRec, Histories
from elcrec.baselines import cooccurrence_ranks, last_item_ranks, most_frequent_ranks
from elcrec.calibration import Reliability
from elcrec.comparison import paired_change
from elcrec.details import is_of
from elcrec.errors import ELCRecError
from elcrec.evaluation import hit_rate_and_ndcg, is_repeat, ndcg_of_users, popularity_ranks
from elcrec.histories import Split, leave_one_out, ragged_arange
from elcrec.intents import IntentHits, intent_hits, largest_share, perplexity, utilisation
from tasks.errors import ModelError
from tasks.lake import Lake, tables
from tasks.lake.duck import connect, sql
from tasks.registry.figures import (
    ALL_USERS,
    BY_TIME,
    CALIBRATION_ERROR,
    CHURN,
    CLEAR_SHARE,
    COOCCURRENCE,
    CUTOFF,
    FLOOR,
    IDLE_USERS,
    LABELS,
    LARGEST_SHARE,
    LAST_ITEM,
    LEAST_OF_TYPE,
    LIFT,
    MOST_FREQUENT,
    NDCG,
    NEW_ITEMS,
    POPULARITY,
    REPEAT_SHARE,
    REPEATS,
    SAME_AGAIN_SHARE,
    SPLIT,
    USERS,
    UTILISATION,
    Metrics,
    against,
    change_of,
    of_type,
    type_of,
)
from tasks.registry.histories import read_histories, trainable_users
from tasks.registry.identity import model_of_night
from tasks.registry.labelling import USERS_A_BATCH, label_batch, labelled_histories, last_labelled
from tasks.registry.versions import anchor, held_out_one_in, promoted
from tasks.registry.vocabulary import model_numbers, renumbered
from tasks.registry.weights import Loaded, load
from tasks.settings import Settings

log = logging.getLogger(__name__)

# Churn is measured on about so many users at most: their share is within 0.3 % of that of all.
CHURN_USERS = 262_144


@dataclass(frozen=True)
class Targets:
    """What is to be found: the newest event of each user by whom models are judged.

    histories: whole, of `n` users, in the numbers of the night's items, 1 to n_items.
    held_out: bool `[n]`, who is judged by; None is everybody.
    side: of these `m` users, the history before the target, and the target.
    repeats: bool `[m]`, whose target is an item that the user has had.
    types: bool `[m]` by the name of a type, whose target is of it (`judged_types`).
    """

    histories: Histories
    held_out: npt.NDArray[np.bool_] | None
    side: Split
    repeats: npt.NDArray[np.bool_]
    n_items: int
    cutoffs: list[int]
    types: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        histories: Histories,
        n_items: int,
        cutoffs: list[int],
        held_out: npt.NDArray[np.bool_] | None = None,
        types: Sequence[str] = (),
    ) -> "Targets":
        """Hold out the newest event of the histories that models are judged by.

        types: that are to be judged by themselves (`judged_types`).
        """
        judged = histories.where(held_out)
        side = leave_one_out(judged, SPLIT)
        of_types = judged_types(histories, types)
        newest = judged.offsets[1:] - 1
        return cls(
            histories,
            held_out,
            side,
            is_repeat(side),
            n_items,
            cutoffs,
            {name: is_of(judged, (name,), newest) for name in of_types},
        )

    @property
    def users(self) -> npt.NDArray[np.int64] | None:
        """The places of the users among all, int64 `[m]`; None is everybody."""
        return None if self.held_out is None else np.flatnonzero(self.held_out)

    def slices(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Return the users of each slice that has any, by a mask; of a type all in any case."""
        masks = {
            ALL_USERS: np.ones_like(self.repeats),
            NEW_ITEMS: ~self.repeats,
            REPEATS: self.repeats,
        }
        found = {name: users for name, users in masks.items() if users.any()}
        for kind, of_it in self.types.items():
            of_kind = {of_type(kind, name): users & of_it for name, users in masks.items()}
            found |= {
                name: users
                for name, users in of_kind.items()
                if users.any() or name == of_type(kind)
            }
        return found


@dataclass(frozen=True)
class Judged:
    """What was measured of a model or a baseline: of each user `[n]`, and over users by slice."""

    metrics: dict[str, Metrics]
    ndcg: npt.NDArray[np.float32]
    hits: IntentHits | None = None  # by the user's intent; a baseline has none

    @classmethod
    def of(
        cls, ranks: npt.NDArray[np.int64], targets: Targets, hits: IntentHits | None = None
    ) -> "Judged":
        """Measure what ranks say, and labels by their hits."""
        metrics: dict[str, Metrics] = {}
        for name, users in targets.slices().items():
            metrics[name] = figures = {USERS: float(users.sum())}
            if type_of(name) and users.sum() < LEAST_OF_TYPE:
                continue
            figures |= hit_rate_and_ndcg(ranks[users], targets.cutoffs)
            if hits is not None and (of_users := hits.of(users)).by_popularity.any():
                figures[LIFT] = of_users.lift  # a ratio to no hits would mean nothing
        return cls(metrics, ndcg_of_users(ranks, CUTOFF), hits)


def evaluate(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Measure the night's model, baselines and the models before it on the night's histories.

    Replaces the night's partition of `metrics`.

    Raises ModelError when the night's model is not trained, or when the last promoted one or the
    anchor cannot be read and so nothing protects the labels (unless promote.force is set).
    """
    lake = Lake.of(settings)
    identity = model_of_night(settings, night)
    version = identity.version
    users = trainable_users(settings, night)
    by_index = users.histories
    # NDCG@20 decides what is promoted, whatever cutoffs are asked for.
    cutoffs = sorted({*settings.evaluate.cutoffs, CUTOFF})

    model = load(settings, version)
    numbers = model_numbers(lake, model.item_ids)
    histories = renumbered(by_index, numbers)
    last = promoted(lake, until=night - dt.timedelta(days=1))
    before = _before(lake, last[0], version) if last is not None else []
    # The users whom all of these models held out: those of the model that held out fewest.
    held_out = users.held_out(held_out_one_in(lake, [version, *before]))
    types = settings.evaluate.types
    targets = Targets.of(histories, len(model.item_ids), cutoffs, held_out, types)
    _say_of_types(targets, types, night)
    new = judge(model.model, histories, targets)
    new.metrics[ALL_USERS] |= _repeat_shares(settings, targets)
    new.metrics[ALL_USERS] |= confidence_figures(
        model.model,
        histories.where(users.held_out(identity.held_out_one_in)),
        settings.label.clear_above,
    )
    judged = {version: new} | judge_baselines(targets, settings.model.seed)
    rows = _Rows(night)
    for earlier_version in before:
        try:
            earlier = load(settings, earlier_version)
            as_known = renumbered(by_index, model_numbers(lake, earlier.item_ids))
            judged[earlier_version] = judge(earlier.model, as_known, targets)
        except ModelError as error:
            if not settings.promote.force:
                raise ModelError(
                    f"{error}; until then nothing can be compared with it, unless promote.force "
                    "is set to label with the new model unseen"
                ) from error
            log.warning("%s; left out, because promote.force is set", error)
            continue
        if last is not None and earlier_version == last[0]:
            by_time = judge_by_time(
                settings, night, earlier_version, earlier, model.item_ids, cutoffs
            )
            for name, slices in by_time.items():
                for whose, metrics in slices.items():
                    log.info("%s by time, %s: %s", name, whose, _listed(metrics))
                    rows.add(name, BY_TIME, whose, metrics)

    for name in (*FLOOR, *before):
        if name in judged:
            changes = compare(new, judged[name], targets, settings)
            log.info("%s against %s: %s", version, name, _listed(changes))
            rows.add(version, SPLIT, against(name), changes)

    for whose, metrics in churn(settings, night, model, numbers, version).items():
        log.info("%s, labels of %s users: %s", version, whose, _listed(metrics))
        rows.add(version, LABELS, whose, metrics)

    for name, of_one in judged.items():
        for whose, metrics in of_one.metrics.items():
            log.info("%s, %s: %s", name, whose, _listed(metrics))
            rows.add(name, SPLIT, whose, metrics)
    lake.replace(tables.METRICS, rows.frame(), nights=[night])
    return {
        "model_version": version,
        "users": len(targets.repeats),
        "repeat_share": new.metrics[ALL_USERS][REPEAT_SHARE],
        "metrics": {name: one.metrics[ALL_USERS] for name, one in judged.items()},
    }


def judged_types(histories: Histories, asked: Sequence[str]) -> list[str]:
    """Return the types that are judged by themselves: those asked for, or all that there are.

    None where histories hold no types, or events of one type alone, which is the type of all.
    """
    if histories.types is None or np.unique(histories.types).size < 2:
        return []
    return list(asked or sorted(histories.type_names))


def _say_of_types(targets: Targets, asked: Sequence[str], night: dt.date) -> None:
    """Say which types have no figure of their own, and why."""
    histories = targets.histories
    if asked and histories.types is None:
        why = "the events have no types"
        if histories.ts_us is None:
            why = "its histories were built without types: run build-sequences for it again"
        log.warning("night %s is not judged by type (evaluate.types): %s", night, why)
    for name, of_it in targets.types.items():
        if name not in histories.type_names:
            known = ", ".join(sorted(histories.type_names))
            log.warning("no event is of type %r (evaluate.types): there are %s", name, known)
        elif (users := int(of_it.sum())) < LEAST_OF_TYPE:
            log.info(
                "the newest event of %d users is of type %s: too few for a figure, which takes %d",
                users,
                name,
                LEAST_OF_TYPE,
            )


def _before(lake: Lake, last: str, version: str) -> list[str]:
    """Return the models before it that the night's is compared with: the last, and its anchor.

    An anchor whose folder is gone is none any more, and a warning says so.
    """
    first = anchor(lake, last)
    found = [last] if last != version else []
    if first is None or first in (last, version):
        return found
    if not lake.has_model(first):
        log.warning(
            "model %s, of the last training from scratch, is gone from %s: nothing shows whether "
            "models have become worse in many small steps since; restore it from a backup, or let "
            "a night train with model.from_scratch",
            first,
            lake.model_dir(first),
        )
        return found
    return [*found, first]


def _repeat_shares(settings: Settings, targets: Targets) -> Metrics:
    """Measure whose newest event is of an item that the user has had; warn where they are many."""
    same = targets.side.histories.last(1) == targets.side.targets
    shares = {
        REPEAT_SHARE: float(targets.repeats.mean()),
        SAME_AGAIN_SHARE: float(same.mean()),
    }
    if shares[REPEAT_SHARE] > settings.evaluate.max_repeat_share:
        log.warning(
            "the newest event of %.0f %% of the users is of an item that they have had before, of "
            "%.0f %% of the very item before it (evaluate.max_repeat_share is %.0f %%): models are "
            "compared on the others alone; where such repeats are one and the same act, let "
            "sequences.session_minutes count an item once a session (it is %g now)",
            100 * shares[REPEAT_SHARE],
            100 * shares[SAME_AGAIN_SHARE],
            100 * settings.evaluate.max_repeat_share,
            settings.sequences.session_minutes,
        )
    return shares


def judge(model: ELCRec, as_known: Histories, targets: Targets) -> Judged:
    """Measure one model: HR and NDCG at the cutoffs, and what its labels are worth.

    as_known: the histories in the model's own numbers, which an earlier model has of its own.
    Raises ModelError when the model cannot be applied to the histories.
    """
    try:
        of_judged = leave_one_out(as_known.where(targets.held_out), SPLIT)
        ranks = model.ranks(of_judged, targets.repeats)
        intents = model.transform(as_known.drop_last(2, targets.held_out)).intent
    except ELCRecError as error:
        raise ModelError(f"the model cannot be evaluated: {error}") from error
    n_intents = model.config.n_intents
    hits = intent_hits(
        intents,
        targets.histories.drop_last(2, targets.held_out),
        targets.side,
        targets.n_items,
        CUTOFF,
        among_all=targets.repeats,
        users=targets.users,
    )
    judged = Judged.of(ranks, targets, hits)
    judged.metrics[ALL_USERS] |= {
        "n_intents": float(n_intents),
        "perplexity": perplexity(intents),
        UTILISATION: utilisation(intents, n_intents),
        LARGEST_SHARE: largest_share(intents),
    }
    return judged


def confidence_figures(model: ELCRec, histories: Histories, clear_above: float) -> Metrics:
    """Measure whether the confidence of labels means what it says, and how many are clear.

    Of users whom the model was not calibrated on: labels of their histories without the newest
    event, and whether they outlive it. Nothing for a model that is not calibrated.

    histories: of those whom the model held out.
    """
    if model.calibration is None:
        return {}
    foreseen = model.foreseen(histories)
    if not foreseen.stayed.size:
        return {}
    return {
        CALIBRATION_ERROR: Reliability.of(foreseen.calibrated, foreseen.stayed).error,
        CLEAR_SHARE: float((foreseen.calibrated >= clear_above).mean()),
    }


def judge_baselines(targets: Targets, seed: int) -> dict[str, Judged]:
    """Measure what knows counts alone, of all events but the targets."""
    side, repeats = targets.side, targets.repeats
    known = targets.histories.drop_last(1, targets.held_out)
    counts = np.bincount(known.items, minlength=targets.n_items + 1)
    ranks = {
        POPULARITY: popularity_ranks(side, counts, repeats),
        COOCCURRENCE: cooccurrence_ranks(side, counts, repeats, seed, known),
        LAST_ITEM: last_item_ranks(side, counts, repeats),
        MOST_FREQUENT: most_frequent_ranks(side, counts, repeats),
    }
    return {name: Judged.of(of_one, targets) for name, of_one in ranks.items()}


def by_time_split(settings: Settings, night: dt.date) -> tuple[Histories, npt.NDArray[np.int64]]:
    """Return each user's history, by item_index, and how many of its events were before the night.

    In the order of user_id; int64 `[n]`.
    """
    lake = Lake.of(settings)
    with connect(settings) as con:
        for table in (tables.SEQUENCES, tables.EVENTS):
            lake.view(con, table, first=night, last=night)
        lake.view(con, tables.ITEMS)
        minutes = {"session_minutes": settings.sequences.session_minutes}
        found = con.sql(sql("time_split"), params=minutes).to_arrow_table()
    # Of the night itself nothing is to be known, neither its events nor that it is over.
    return read_histories(found, night - dt.timedelta(days=1)), found.column("earlier").to_numpy()


def judge_by_time(
    settings: Settings,
    night: dt.date,
    version: str,
    earlier: Loaded,
    item_ids: pl.Series,
    cutoffs: list[int],
) -> dict[str, dict[str, Metrics]]:
    """Measure a model of an earlier night, and popularity until then, on the events of the night.

    Returns the figures of both by slice: of everybody by the first event of the night, and of those
    with an event of a type by the first of that type.

    item_ids: the items of the night, which popularity ranks. The model ranks those that it knows: a
    target that it does not is a miss (`unknown_targets` is the share of these). A target that its
    user has had before is ranked among all items (`repeat_share`).
    Nothing when no user with a history has an event of the night.
    """
    lake = Lake.of(settings)
    numbers, n_items = model_numbers(lake, item_ids), len(item_ids)
    own = model_numbers(lake, earlier.item_ids)
    whole, counts = by_time_split(settings, night)
    before = replace(whole.oldest(counts), until_us=whole.until_us)
    users = np.flatnonzero((counts > 0) & (counts < whole.lengths))
    if not users.size:
        return {}
    history = before.take(users)
    known, known_as = renumbered(history, numbers), renumbered(history, own)
    popularity = np.bincount(renumbered(before, numbers).items, minlength=n_items + 1)

    def judged(asked: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> dict[str, Metrics]:
        """Ask some of the users, by their places, for the items of the events `rows` of `whole`."""
        side = Split(known.take(asked), numbers[whole.items[rows]])
        repeats = is_repeat(side)
        own_side = Split(known_as.take(asked), own[whole.items[rows]])
        ranks = earlier.model.ranks(own_side, repeats)
        n_users = {USERS: float(asked.size), REPEAT_SHARE: float(repeats.mean())}
        metrics = n_users | hit_rate_and_ndcg(ranks, cutoffs)
        metrics["unknown_targets"] = float((own_side.targets > len(earlier.item_ids)).mean())
        hits = intent_hits(intents, known, side, n_items, CUTOFF, among_all=repeats, users=asked)
        if hits.by_popularity.any():
            metrics[LIFT] = hits.lift
        popular = n_users | hit_rate_and_ndcg(popularity_ranks(side, popularity, repeats), cutoffs)
        return {version: metrics, POPULARITY: popular}

    starts, lengths = whole.offsets[users] + counts[users], whole.lengths[users] - counts[users]
    tonight = ragged_arange(starts, lengths)
    owners = np.repeat(np.arange(users.size), lengths)
    found: dict[str, dict[str, Metrics]] = {version: {}, POPULARITY: {}}
    try:
        intents = earlier.model.transform(known_as).intent
        slices = {ALL_USERS: judged(np.arange(users.size), starts)}
        for name in judged_types(whole, settings.evaluate.types):
            of_it = np.flatnonzero(is_of(whole, (name,), tonight))
            asked, first = np.unique(owners[of_it], return_index=True)
            if asked.size < LEAST_OF_TYPE:
                of_few: Metrics = {USERS: float(asked.size)}
                slices[of_type(name)] = {version: of_few, POPULARITY: of_few}
            else:
                slices[of_type(name)] = judged(asked, tonight[of_it[first]])
    except ELCRecError as error:
        raise ModelError(f"model {version} cannot be evaluated: {error}") from error
    for whose, of_both in slices.items():
        for name, metrics in of_both.items():
            found[name][whose] = metrics
    return found


def compare(new: Judged, other: Judged, targets: Targets, settings: Settings) -> Metrics:
    """Measure the relative change of NDCG@20 and intent lift@20 from another one to the model.

    Over the users whose target is new to them, of whom USERS is the number; without any there is
    nothing more. Of each the estimate and its one-sided bounds by the paired bootstrap. Lift is a
    ratio to the hits of popularity, which are the same for all models: its change is that of the
    hits. To a baseline, which has no labels, it is that by which the lift is above 1: the lift of
    popularity.
    """
    users = ~targets.repeats
    changes: Metrics = {USERS: float(users.sum())}
    if not users.any():
        return changes
    pairs: list[tuple[str, npt.NDArray[Any], npt.NDArray[Any]]] = [(NDCG, new.ndcg, other.ndcg)]
    assert new.hits is not None
    if other.hits is not None:
        pairs.append((LIFT, new.hits.by_intent, other.hits.by_intent))
    else:
        pairs.append((LIFT, new.hits.by_intent, new.hits.by_popularity))
    for metric, of_new, of_other in pairs:
        change = paired_change(
            of_new[users],
            of_other[users],
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
    lake = Lake.of(settings)
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
            # Of a retired intent no centre is left, so its users count as changed.
            changed = (labels.intent < 0) | (model.intents.ids[labels.intent] != before)
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
