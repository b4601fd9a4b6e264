"""Scores of published methods, from `published_scores.toml`, by the data set they hold for."""

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Counts = tuple[int, int, int]  # users, items, events: what a data set is known by
FILE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class DataSet:
    """A data set and what is published for it: scores by metric, by "method, venue"."""

    name: str
    scores: dict[str, dict[str, float]]


def read() -> dict[str, Any]:
    """Return the file as it is: `methods` with their sources, and `data` with their scores."""
    return tomllib.loads(FILE.read_text("utf-8"))


def by_counts() -> dict[Counts, DataSet]:
    """Return the data sets that scores are published for, by their users, items and events."""
    told = read()
    return {
        (data["users"], data["items"], data["events"]): DataSet(
            data["name"],
            {
                f"{method}, {told['methods'][method]['venue']}": scores
                for method, scores in data["scores"].items()
            },
        )
        for data in told["data"]
    }
