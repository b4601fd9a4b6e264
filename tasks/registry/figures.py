"""The names of what is measured of a model, in the columns of the table `metrics`."""

from collections.abc import Iterable
from dataclasses import dataclass

# Simple recommenders; they stand in the column model_version.
POPULARITY, COOCCURRENCE = "popularity", "co-occurrence"
LAST_ITEM, MOST_FREQUENT = "last item again", "most frequent item"
# Those that a model has to beat. The other two know only items that the user has had.
FLOOR = (POPULARITY, COOCCURRENCE)
BASELINES = (*FLOOR, LAST_ITEM, MOST_FREQUENT)

SPLIT, BY_TIME, LABELS = "test", "time", "labels"  # of the column split
# Of the column slice; there are those of `against`, too. Idle users are of the split LABELS. Users
# whose target is new to them have it ranked among what they have not had, as in the published
# protocol; users whose target is a repeat have it ranked among all items. ALL_USERS are both.
ALL_USERS, IDLE_USERS = "all", "idle"
NEW_ITEMS, REPEATS = "new items", "repeats"
CUTOFF = 20  # K of what decides
LEAST_OF_TYPE = 50  # users: of fewer, a slice of `of_type` has no figure but their number

# The metrics that `promote` decides by, of the slice NEW_ITEMS: repeats cannot inflate them.
NDCG, LIFT = f"NDCG@{CUTOFF}", f"intent_lift@{CUTOFF}"
USERS = "users"  # that a figure is of
UTILISATION, LARGEST_SHARE = "utilisation", "largest_share"
REPEAT_SHARE, SAME_AGAIN_SHARE = "repeat_share", "same_again_share"
CHURN = "label_churn"
CALIBRATION_ERROR, CLEAR_SHARE = "calibration_error", "clear_share"

Metrics = dict[str, float]


def against(version: str) -> str:
    """Name the slice of a model's figures that compare it with this other one.

    They are over the users of NEW_ITEMS.
    """
    return f"against {version}"


def of_type(name: str, users: str = ALL_USERS) -> str:
    """Name the slice of those of `users` whose target is an event of this type."""
    return f"{users} of type {name}"


def type_of(of_whom: str) -> tuple[str, str] | None:
    """Return the users and the type of a slice that `of_type` named; None for any other slice."""
    users, between, name = of_whom.partition(" of type ")
    known = between and users in (ALL_USERS, NEW_ITEMS, REPEATS)
    return (users, name) if known else None


def change_of(metric: str, bound: str = "estimate") -> str:
    """Name the metric that says how another changed: its estimate, or its bound "low" or "high"."""
    return f"{metric} change" + ("" if bound == "estimate" else f" {bound}")


@dataclass(frozen=True)
class OfType:
    """What a model, and popularity beside it, are worth where the target is an event of one type.

    name: of the type. split, of_whom: as in `metrics`, without the type. model, popularity: their
    figures; of fewer than LEAST_OF_TYPE users there is their number alone.
    """

    name: str
    split: str
    of_whom: str
    model: Metrics
    popularity: Metrics

    @property
    def users(self) -> int:
        """How many users have such a target."""
        return int(self.model[USERS])

    @property
    def judged_by(self) -> str:
        """Say in words what was to be found."""
        if self.split == BY_TIME:
            return "first of this night"
        if not self.users:
            return "newest event"
        return f"newest event, {'a new item' if self.of_whom == NEW_ITEMS else 'a repeat'}"


def of_types(rows: Iterable[tuple[str, str, str, str, float]], version: str | None) -> list[OfType]:
    """Return what is known by type, in the order of types; of new items and of repeats apart.

    rows: model_version, split, slice, metric and value of a night. version: the model that is told
    of where it was measured; otherwise any other is.
    """
    found: dict[tuple[str, str, str], dict[str, Metrics]] = {}
    for name, split, users, metric, value in rows:
        if (known := type_of(users)) is not None:
            of_models = found.setdefault((known[1], split, known[0]), {})
            of_models.setdefault(name, {})[metric] = value
    told = []
    for (kind, split, users), measured in sorted(found.items()):
        models = sorted(name for name in measured if name not in BASELINES)
        one = version if version in models else models[-1]
        row = OfType(kind, split, users, measured[one], measured[POPULARITY])
        # Of everybody the newest event is of a new item or a repeat, which are told apart.
        if split == BY_TIME or users != ALL_USERS or not row.users:
            told.append(row)
    return told
