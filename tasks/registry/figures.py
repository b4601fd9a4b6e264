"""The names of what is measured of a model, in the columns of the table `metrics`."""

POPULARITY = "popularity"  # stands in the column model_version
SPLIT, BY_TIME, LABELS = "test", "time", "labels"  # of the column split
ALL_USERS, IDLE_USERS = "all", "idle"  # of the column slice; there are those of `against`, too
CUTOFF = 20  # K of what decides

# The metrics that `promote` decides by.
NDCG, LIFT = f"NDCG@{CUTOFF}", f"intent_lift@{CUTOFF}"
UTILISATION, LARGEST_SHARE = "utilisation", "largest_share"
CHURN = "label_churn"

Metrics = dict[str, float]


def against(version: str) -> str:
    """Name the slice of a model's figures that compare it with this other one on all users."""
    return f"against {version}"


def change_of(metric: str, bound: str = "estimate") -> str:
    """Name the metric that says how another changed: its estimate, or its bound "low" or "high"."""
    return f"{metric} change" + ("" if bound == "estimate" else f" {bound}")
