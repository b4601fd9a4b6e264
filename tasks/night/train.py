"""Train ELCRec on a night's histories and register the model.

The model is written to a folder of its own and moved into place when it is whole. A training that
was killed goes on from its last checkpoint; a model that is already there is not trained again.

Most nights train on from the promoted model before them, for a few epochs. However it was trained,
a model takes over the ids of the intents that it carries on (`tasks.registry.intent_ids`).
"""

import datetime as dt
import logging
import math
import shutil
import statistics
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from elcrec import Config, ELCRec, EpochReport, Histories
from elcrec.distributed import RankLostError
from elcrec.errors import ELCRecError
from elcrec.matching import deserted, first_ids, match_intents
from tasks.errors import ModelError, NotReadyError
from tasks.lake import TRAINING, Lake, model_folder
from tasks.registry.histories import trainable_users
from tasks.registry.identity import Identity, configure, identify, register
from tasks.registry.intent_ids import Intents, named, read_any
from tasks.registry.vocabulary import model_numbers, renumbered, vocabulary
from tasks.registry.weights import Loaded, carried_over, is_complete, load, save
from tasks.settings import Settings

log = logging.getLogger(__name__)

# n_intents = 0: one intent for every so many users, within limits that people can look through.
NEWEST_EVENTS = 5  # say what a user is after lately
TIMED = 5  # newest epochs, whose median is how long one takes
LEAST_USERS = 5  # fewer make no intent, however small intents are
USERS_AN_INTENT, FEWEST_INTENTS, MOST_INTENTS = 80, 8, 256


def train(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Train on the histories of a night and register the model, not yet promoted.

    Only users with three events or more are trained on; the others are labelled all the same. The
    newest two events of some of them, or of all, are held out (`tasks.registry.held_out`).

    Raises NotReadyError when one of several training processes has ended: the next try goes on.
    LakeError without histories, ModelError when they are too few or too short or the training
    fails, SettingsError for a setting that the model does not know.
    """
    lake = Lake.of(settings)
    identity = identify(settings, night)
    scratch = f"{TRAINING}/{identity.version}"
    summary: dict[str, Any] = {"model_version": identity.version, "n_items": identity.n_items}
    if trained := _trained(lake, identity, night):
        log.info("model %s is already trained on the same data and settings", identity.version)
        register(lake, night, identity, trained.next_id)
        lake.storage.remove(scratch)  # of a training that was killed when it was done
        return summary | {"trained": False}

    item_ids = vocabulary(settings, night)
    users = trainable_users(settings, night)
    by_index, last_ts = users.histories, users.last_ts
    held_out = users.held_out(identity.held_out_one_in)
    histories = renumbered(by_index, model_numbers(lake, item_ids))
    parent = load(settings, identity.parent_version) if identity.parent_version else None
    since = np.datetime64(night + dt.timedelta(days=1 - settings.model.left_nights))
    lately = np.flatnonzero(last_ts >= since)
    initial = groups = None
    if parent is None:
        config = configure(settings, number_of_intents(settings, len(histories)))
        before, carried = np.empty(0, np.int32), np.empty(0, np.int64)
    else:
        as_known = renumbered(by_index, model_numbers(lake, parent.item_ids))
        before, recently_consistent = earlier_intents(night, parent, as_known, lately)
        k_before, least_share = parent.model.config.n_intents, settings.model.least_share / 2
        carried = np.flatnonzero(~deserted(before, recently_consistent, k_before, least_share))
        if identity.warm:
            config = replace(
                configure(settings, carried.size), max_epochs=settings.model.warm_epochs
            )
            initial = carried_over(parent, item_ids, config, carried)
        else:
            if identity.same_settings:
                k = carried.size  # keep the parent model's number of intents
            else:
                k = number_of_intents(settings, len(histories))
                carried = largest(before, carried, k)
            config = configure(settings, k)
            # What is learned may not start from the events that are held out.
            known = as_known.drop_last(2, held_out)
            groups = seeds(*earlier_intents(night, parent, known, lately), carried)
    log.info(
        "model %s: %d users with 3 events or more (the newest two of %s are held out), %d events, "
        "%d items, %d intents, %s",
        identity.version,
        len(histories),
        "each" if held_out is None else f"{held_out.sum()}",
        len(histories.items),
        len(item_ids),
        config.n_intents,
        f"trained on from {identity.parent_version}" if initial else "trained from scratch",
    )
    reports: list[EpochReport] = []

    with lake.storage.working(scratch) as work:

        def on_epoch(report: EpochReport) -> None:
            work.keep()
            reports.append(report)
            seconds = statistics.median(each.seconds for each in reports[-TIMED:])
            left = time_left(seconds, *epochs_left(report, config, warm=initial is not None))
            # A terminal shows how far it is as a bar (tasks/terminal.py).
            how_far = {"done": report.epoch, "most": report.max_epochs, "left": left}
            log.info("%s", epoch_line(report, left), extra=how_far)

        try:
            model = ELCRec(config).fit(
                histories,
                n_items=len(item_ids),
                initial=initial,
                groups=groups,
                held_out=held_out,
                checkpoint_dir=work.path / "checkpoints",
                on_epoch=on_epoch,
                rendezvous=settings.model.rendezvous or None,
            )
            if parent is not None:
                # Who has not come for long is no sign of a new intent, nor is what they did long
                # ago: users of an intent that is given up would be taken for a group of their own.
                half = night - dt.timedelta(days=settings.model.left_nights // 2)
                fresh = np.flatnonzero(last_ts >= np.datetime64(half))
                known = histories.drop_last(2, held_out).take(fresh).newest(NEWEST_EVENTS)
                average = len(histories) / config.n_intents
                least_users = max(LEAST_USERS, math.ceil(settings.model.least_share * average))
                model.open_intents(known, least_users)
            model.calibrate(histories.where(held_out))
            intents = name_intents(
                settings, night, model, histories, identity, parent, before, carried
            )
        except RankLostError as error:
            raise NotReadyError(f"training on night {night} has stopped: {error}") from error
        except ELCRecError as error:
            raise ModelError(f"training on night {night} failed: {error}") from error
        finished = work.path / "model"
        shutil.rmtree(finished, ignore_errors=True)
        save(model, item_ids, intents, finished)
        # Another run of the night may have been faster.
        trained = _trained(lake, identity, night)
        if trained is None:
            lake.storage.put(finished, model_folder(identity.version))
    register(lake, night, identity, (trained or intents).next_id)
    lake.storage.remove(scratch)
    return summary | {
        "trained": True,
        "trained_on_from": identity.parent_version if initial else None,
        "users": len(histories),
        "intents": model.config.n_intents,
        "intents_born": sum(intent.born == night for intent in intents.of_centers),
        "intents_retired": len(intents.retired),
        "epochs": reports[-1].epoch if reports else 0,
        "curve": [
            {
                "epoch": report.epoch,
                "losses": report.losses,
                "validation": report.metrics.get("NDCG@20"),
                "best": report.best_epoch,
                "seconds": report.seconds,
            }
            for report in model.history  # with the epochs of a training that was killed
        ],
    }


def _trained(lake: Lake, identity: Identity, night: dt.date) -> Intents | None:
    """Return the intents of the night's model where it is there, whole and of ids of its own.

    The ids it gave its new intents may not be free any more where its training ended, but not its
    registration, and another model of the night was registered since.
    """
    with lake.storage.fetched(model_folder(identity.version)) as folder:
        if not is_complete(folder):
            return None
        intents = read_any(folder)
    born = [intent.intent_id for intent in intents.of_centers if intent.born == night]
    return intents if all(number >= identity.first_free_id for number in born) else None


def earlier_intents(
    night: dt.date, parent: Loaded, histories: Histories, lately: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Label the night's users by the parent.

    histories: the night's, in the parent's numbers; lately: who of them had an event in the last
        `model.left_nights`.

    Returns the users' intents as places of the parent's centres, int32 `[n]`, -1 for none, and
    whether a user came lately and the newest events alone have the same intent, bool `[n]`.
    """
    try:
        before = parent.model.transform(histories).intent
        newest = parent.model.transform(histories.take(lately).newest(NEWEST_EVENTS)).intent
    except ELCRecError as error:
        raise ModelError(f"training on night {night} failed: {error}") from error
    recently_consistent = np.zeros(before.size, bool)
    recently_consistent[lately] = newest == before[lately]
    return before, recently_consistent


def seeds(
    before: npt.NDArray[np.int32],
    recently_consistent: npt.NDArray[np.bool_],
    carried: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """Choose the users whose behaviours a centre starts from in a training from scratch.

    They are the users who are recently consistent with the intent, or all of its users where fewer
    than LEAST_USERS are. A user who has the intent only from long ago, perhaps from an intent that
    is retired, would pull the centre away from the users who come now.

    Returns the place of the user's intent in `carried`, int64 `[n]`, -1 for a user who is not
    chosen.
    """
    k = 1 + max(int(before.max(initial=-1)), int(carried.max(initial=-1)))
    place = np.full(k + 1, -1)  # the last is of nobody
    place[carried] = np.arange(carried.size)
    many = np.bincount(before[recently_consistent & (before >= 0)], minlength=k + 1) >= LEAST_USERS
    return np.where(recently_consistent | ~many[before], place[before], -1)


def largest(
    before: npt.NDArray[np.int32], carried: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """Choose the `count` centres with most users, all if there are no more, in their order."""
    users = np.bincount(before[before >= 0], minlength=int(carried[-1]) + 1)[carried]
    return np.sort(carried[np.argsort(-users, kind="stable")[:count]])


def name_intents(
    settings: Settings,
    night: dt.date,
    model: ELCRec,
    histories: Histories,
    identity: Identity,
    parent: Loaded | None,
    before: npt.NDArray[np.int32],
    carried: npt.NDArray[np.int64],
) -> Intents:
    """Give the model's intents the ids of the parent's that they carry on, and new ones.

    histories: the night's, in the model's numbers; before, carried: of `earlier_intents`.
    """
    k = model.config.n_intents
    if parent is None:
        return named(first_ids(k, identity.first_free_id), night, None)
    matching = match_intents(
        before,
        model.transform(histories).intent,
        parent.intents.ids,
        k,
        max(parent.intents.next_id, identity.first_free_id),
        least_overlap=settings.model.least_overlap,
        carried=np.concatenate([carried, np.full(k - carried.size, -1)]),
    )
    intents = named(matching, night, parent.intents)
    log.info(
        "%d of %d intents carry on an earlier one, %d are new, %d retired",
        int(matching.inherited.sum()),
        k,
        int((~matching.inherited).sum()),
        len(intents.retired),
    )
    return intents


def number_of_intents(settings: Settings, users: int) -> int:
    """Settle k for so many trainable users: the one set, the paper's for its data set, or by users.

    Raises ModelError for more intents than users.
    """
    automatic = min(max(users // USERS_AN_INTENT, FEWEST_INTENTS), MOST_INTENTS, users)
    chosen = settings.model
    published = configure(settings).n_intents if chosen.dataset else 0
    intents = chosen.n_intents or published or automatic
    if intents > users:
        asked = "model.n_intents" if chosen.n_intents else f"k of model.dataset {chosen.dataset!r}"
        raise ModelError(
            f"{asked} is {intents}, but only {users} users have 3 events or more: set "
            "model.n_intents lower, or to 0 without model.dataset for a number that follows the "
            "users"
        )
    return intents


def epochs_left(report: EpochReport, config: Config, *, warm: bool) -> tuple[int, int]:
    """Return how many epochs are still to come: if none of them is better than the best, and most.

    More cannot be known: training ends when `patience` epochs in a row were no better, and each one
    that is better gives it `patience` new ones.

    warm: whether it started from a model, and so has no warm-up, which is never the best.
    """
    most = report.max_epochs - report.epoch
    warmup = 0 if warm else min(config.warmup_epochs, config.max_epochs)
    least = config.patience - (report.epoch - max(report.best_epoch, warmup))
    return min(max(least, 0), most), most


def time_left(seconds: float, least: int, most: int) -> str:
    """Say how long training still takes, as far as that is known.

    seconds: of an epoch to come; least, most: how many these are (`epochs_left`).
    """
    if most == 0:
        return "that was the last one"
    left = f"at most {_duration(most * seconds)} left"
    return f"{_duration(least * seconds)} if none is better, {left}" if least < most else left


def epoch_line(report: EpochReport, left: str) -> str:
    """Say in one line how an epoch went: losses, validation, best epoch so far, time."""
    losses = "  ".join(f"{name} {value:.4f}" for name, value in report.losses.items())
    best = f"epoch {report.best_epoch}" if report.best_epoch else "none yet"
    validation = report.metrics.get("NDCG@20", float("nan"))
    return (
        f"epoch {report.epoch}/{report.max_epochs}  {losses}  validation NDCG@20 {validation:.4f}"
        f"  best {best}  {report.seconds:.1f} s  {left}"
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
