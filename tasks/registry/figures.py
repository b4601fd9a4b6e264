"""The names of what is measured of a model, in the columns of the table `metrics`."""

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


def change_of(metric: str, bound: str = "estimate") -> str:
    """Name the metric that says how another changed: its estimate, or its bound "low" or "high"."""
    return f"{metric} change" + ("" if bound == "estimate" else f" {bound}")
