"""Give the labels of a night to their readers: to each target of the settings under `publish`.

What says what they mean goes with them: profiles and names of the intents, and why users have them;
and so do recommendations, if the night has some.

The Delta table `intent_labels` is there already; with no other target, the labels are validated
against the contract with their readers and that is all.
"""

import datetime as dt
import logging
from typing import Any

from tasks.errors import LakeError
from tasks.lake import Lake, tables
from tasks.lake.duck import connect
from tasks.registry import revisions
from tasks.settings import Settings
from tasks.targets import contract, targets_of

log = logging.getLogger(__name__)


def publish(settings: Settings, night: dt.date) -> dict[str, Any]:
    """Publish the labels of one night; each target has them whole or stays as it was.

    Labels that are others than those published last are a new revision of the night, and so are the
    same labels with other profiles, names, evidence or recommendations. Each target has the
    revisions of the night together with its labels.

    Raises
    ------
    LakeError
        The night has no labels.
    PublishError
        The labels break the contract, or something of others is in the way of a target.
    SettingsError
        A connection that the settings name is missing.
    """
    targets = list(targets_of(settings))
    lake = Lake.of(settings)
    with connect(settings) as con:
        for table in (tables.INTENT_LABELS, *tables.WITH_LABELS):
            lake.view(con, table, first=night, last=night)
        labels = contract.validate(con, night)
        if not labels:
            raise LakeError(
                f"table intent_labels has no rows for night {night}: run label for it first"
            )
        for target in targets:
            target.check()
        revision = revisions.revise(lake, con, night)
        for target in targets:
            target.publish(con, night, revisions.public(lake, night))
            log.info("%d labels of night %s are in %s", labels, night, target)
    return {
        "labels": labels,
        "contract_version": contract.VERSION,
        "revision": revision["revision"],
        "why": revision["why"],
        "labels_changed": revision["changed"],
        "targets": ["Delta table intent_labels", *map(str, targets)],
    }
