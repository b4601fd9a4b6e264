"""What keeps labels from changing, and what that costs: a curve of churn against lift.

    python bench/churn.py --data beauty
    python bench/churn.py --data ml-100k --seeds 1 2 3
    python bench/churn.py --data drift --seeds 1 2 3

Trains the preset `default` once a seed; a model in the folder --models is not trained again. Then
only the labelling varies. Users are labelled at moments: on Beauty after each of their newest
events, on the others at the end of each night on which they had some. Each label is held against
that of the moment before. Churn is the share of users with another label than at the moment before:
on Beauty at the last moment, after one event; on the others over all nights. The labels of the last
moment are worth lift@20. How far that is from the lift by the default rule is measured by the
paired bootstrap over users, with each user's hits averaged over seeds.

On Beauty and ml-100k the newest event is the target, and labels are made from all but the newest
two. `drift` is the log of that name of bench/details.py: half of the users take up another intent
at some time. There the first event after the end of the log is the target, and NMI with the intents
that users have at the end says whether labels follow.

- ratio: another intent wins if it is so many times as probable (`label.probability_ratio`).
- recency: in a behaviour, an item that a newer ones follow weighs (1 + a)^-recency.
- expectation: what the encoder expects next counts so much, beside what the user has had.
- mean: the behaviours of so many newest moments are averaged.
- chance: another intent wins if its calibrated confidence is at least this.
- in a row: another intent wins if it was beyond the ratio at so many moments, one after the other.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as fn
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor

from bench import details
from bench.calibration import histories_of, trained
from bench.record import add_option, record
from bench.splits import INTENTS, read_ratings
from elcrec import Config, ELCRec, Histories
from elcrec.comparison import paired_change
from elcrec.details import DAY_US
from elcrec.evaluation import BLOCK_USERS, events_to_label, in_callers_order
from elcrec.histories import Split, leave_one_out, ragged_arange
from elcrec.intents import intent_hits

DATA = ("beauty", "ml-100k", "drift")
EVENTS = 10  # newest ones of a user after each of which Beauty is labelled
DAY_S = 86_400


@dataclass(frozen=True)
class Rule:
    """How labels are made and held; the defaults are those of a night."""

    ratio: float = 20.0
    recency: float = 0.3
    expectation: float = 1.0
    mean: int = 1
    chance: float | None = None  # in the place of the ratio
    in_a_row: int = 1

    def __str__(self) -> str:
        """Return what departs from a night's, in words."""
        told = {
            name.replace("_", " "): value
            for name, value in asdict(self).items()
            if value != getattr(DEFAULT, name) or name == "ratio"
        }
        if self.chance is not None:
            told.pop("ratio")
        return ", ".join(f"{name} {value:g}" for name, value in told.items())


DEFAULT = Rule()
RULES = (
    *(Rule(ratio=q) for q in (1, 5, 20, 50, 100, 200, 300, 1_000, 10_000, float("inf"))),
    *(Rule(recency=0.0, ratio=q) for q in (20, 100)),
    *(Rule(expectation=0.5, ratio=q) for q in (20, 100)),
    Rule(recency=0.0, expectation=0.75, ratio=100),
    *(Rule(mean=m, ratio=q) for m in (2, 3) for q in (5, 20)),
    *(Rule(chance=c) for c in (0.2, 0.3, 0.4, 0.5, 0.7)),
    *(Rule(in_a_row=2, ratio=q) for q in (1, 5, 20)),
)


@dataclass(frozen=True)
class Moments:
    """When `n` users are labelled, the oldest moment first.

    lengths: int64 `[M]`, how many events of its user's history each of the moments has seen.
    offsets: int64 `[n + 1]`, which moments are whose; the last one of each has seen all.
    """

    lengths: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def prefixes(self, histories: Histories) -> Histories:
        """Return the history at each moment, `M` of them."""
        users = np.repeat(np.arange(len(histories)), np.diff(self.offsets))
        ends = np.concatenate([[0], np.cumsum(self.lengths)])
        rows = ragged_arange(histories.offsets[users], self.lengths)
        return Histories(histories.items[rows], ends)


def newest_events(known: Histories) -> Moments:
    """Label after each of the newest EVENTS events."""
    counts = np.minimum(known.lengths, EVENTS)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return Moments(ragged_arange(known.lengths - counts + 1, counts), offsets)


def nights(known: Histories, days: list[NDArray[np.int64]]) -> Moments:
    """Label at the end of each night on which a user had events.

    days: of each user's events, oldest first; those beyond the history are not looked at.
    """
    lengths = []
    for of_user, length in zip(days, known.lengths, strict=True):
        ends = np.flatnonzero(np.diff(of_user[:length])) + 1
        lengths.append(np.append(ends, length))
    offsets = np.concatenate([[0], np.cumsum([one.size for one in lengths])])
    return Moments(np.concatenate(lengths), offsets)


@dataclass(frozen=True)
class Task:
    """What is learned, from what labels are made and when, and what they are judged by.

    learned, known: `n` histories. users: int64 `[m]`, whose targets `asked` has; None is everybody.
    truth: int `[n]`, the intents that users have at the end; None where nobody knows.
    """

    learned: Histories
    known: Histories
    moments: Moments
    asked: Split
    intents: int
    users: NDArray[np.int64] | None = None
    truth: NDArray[np.int64] | None = None

    @classmethod
    def of(cls, data: str, seed: int) -> Task:
        """Read or generate one of DATA; only `drift` is another log for each seed."""
        if data == "drift":
            log = details.draw_log(data, seed)
            assert log.before.ts_us is not None
            days = np.split(log.before.ts_us // DAY_US, log.before.offsets[1:-1])
            users = np.flatnonzero(log.targets["all"])
            asked = Split(log.before.take(users), log.targets["all"][users])
            # Labels are made from items alone, as the default is.
            known = Histories(log.before.items, log.before.offsets)
            made = nights(known, days)
            return cls(known, known, made, asked, details.INTENTS, users, log.truth)
        histories, _ = histories_of(data)
        known, asked = histories.drop_last(2), leave_one_out(histories, "test")
        if data == "beauty":
            return cls(histories, known, newest_events(known), asked, INTENTS[data])
        # In the order of histories_of.
        ratings = read_ratings().sort("time", "user", "item")
        dated = ratings.with_columns(day=pl.col("time") // DAY_S)
        lists = dated.group_by("user", maintain_order=True).agg("day")["day"]
        made = nights(known, [np.array(days) for days in lists.to_list()])
        return cls(histories, known, made, asked, INTENTS[data])


class Labeller:
    """A model, and what it made of each moment: the two halves of a behaviour."""

    def __init__(self, model: ELCRec, moments: Moments, known: Histories) -> None:
        assert model.network is not None and model.calibration is not None
        self.network, self.calibration, self.moments = model.network, model.calibration, moments
        self._prefixes = moments.prefixes(known)
        self._halves: dict[float, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def halves(self, recency: float) -> tuple[Tensor, Tensor]:
        """Return what users have had and what the encoder expects, unit vectors `[M, d]` each."""
        if recency not in self._halves:
            network = self.network
            network.config = replace(network.config, recency=recency)
            had, expected = [], []
            for first in range(0, len(self._prefixes), BLOCK_USERS):
                last = min(first + BLOCK_USERS, len(self._prefixes))
                batch = events_to_label(network, self._prefixes.slice(first, last))
                h, rows = network.label_behaviours(batch)
                unit = fn.normalize(batch.mean(rows), dim=-1)
                had.append(in_callers_order(batch, unit))
                expected.append(in_callers_order(batch, h - unit))
            self._halves[recency] = torch.cat(had), torch.cat(expected)
        return self._halves[recency]

    @torch.no_grad()
    def probabilities(self, rule: Rule) -> Tensor:
        """Return the softmax over intents at each moment, `[M, k]`."""
        had, expected = self.halves(rule.recency)
        h = fn.normalize(had + rule.expectation * expected, dim=-1)
        if rule.mean > 1:
            places = torch.arange(len(h)) - torch.from_numpy(
                np.repeat(self.moments.offsets[:-1], np.diff(self.moments.offsets))
            )
            total = h.clone()
            for back in range(1, rule.mean):
                there = (places >= back).nonzero().squeeze(1)
                total[there] += h[there - back]
            h = total
        return self.network.intent_probabilities(h)

    def labels(self, rule: Rule) -> NDArray[np.int64]:
        """Return the label at each moment, held against that of the moment before: int64 `[M]`."""
        probabilities = self.probabilities(rule)
        best = probabilities.argmax(1).numpy()
        top = probabilities.max(1).values.numpy()
        sure = None if rule.chance is None else self.calibration(probabilities)
        labels = best.copy()
        offsets = self.moments.offsets
        counts = np.diff(offsets)
        streak = np.zeros(counts.size, np.int64)  # moments in a row beyond the ratio
        for step in range(1, int(counts.max())):
            users = np.flatnonzero(counts > step)
            rows = offsets[users] + step
            before = labels[rows - 1]
            other = best[rows] != before
            if sure is not None:
                wins = sure.numpy()[rows, best[rows]] >= rule.chance
            else:
                mine = probabilities.numpy()[rows, before]
                wins = top[rows] / np.float32(rule.ratio) > mine
            streak[users] = np.where(other & wins, streak[users] + 1, 0)
            changes = streak[users] >= rule.in_a_row
            labels[rows] = np.where(changes, best[rows], before)
            streak[users[changes]] = 0
        return labels


def churn(moments: Moments, labels: NDArray[np.int64], of_last: bool) -> float:
    """Return the share of labels that differ from those of the moment before.

    of_last: at the last moment of each user alone.
    """
    first = np.zeros(labels.size, bool)
    first[moments.offsets[:-1]] = True
    counted = ~first
    if of_last:
        last = np.zeros(labels.size, bool)
        last[moments.offsets[1:] - 1] = True
        counted &= last
    rows = np.flatnonzero(counted)
    return float((labels[rows] != labels[rows - 1]).mean())


def main() -> None:
    """Measure one data set and print the curve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=DATA, default="beauty")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--epochs", type=int, default=10, help="at most")
    parser.add_argument("--models", type=Path, default=Path("build/churn"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    found: dict[Rule, dict[str, list[Any]]] = {rule: {} for rule in RULES}
    for seed in given.seeds:
        task = Task.of(given.data, seed)
        config = Config(
            n_intents=task.intents, max_epochs=given.epochs, threads=given.threads, seed=seed
        )
        model = trained(given.models / f"{given.data}-{seed}", task.learned, config)
        labeller = Labeller(model, task.moments, task.known)
        for rule in RULES:
            of_seed = measure(task, labeller.labels(rule), model.n_items, given.data == "beauty")
            for name, value in of_seed.items():
                found[rule].setdefault(name, []).append(value)
            told = {name: value for name, value in of_seed.items() if name != "hits"}
            print(seed, rule, told, file=sys.stderr, flush=True)
    rows = [compared(rule, of_rule, found[DEFAULT]) for rule, of_rule in found.items()]
    table = Table("rule", "churn", "fewer", "lift@20", "change", "from", "to", "NMI", box=None)
    for row in rows:
        shares = (row["fewer"], *row["lift_change"].values())
        fewer, *changes = (f"{value:+.1%}" for value in shares)
        figures = (f"{row['churn']:.3f}", fewer, f"{row['lift@20']:.2f}", *changes)
        table.add_row(row["rule"], *figures, f"{row['NMI']:.3f}" if row.get("NMI") else "")
    Console(width=None if sys.stdout.isatty() else 110).print(table)
    counted = np.diff(task.moments.offsets) - 1
    pairs = counted.clip(max=1) if given.data == "beauty" else counted
    facts = {"data": given.data, "seeds": len(given.seeds), "users": len(task.known)}
    record(given.record, facts | {"pairs": int(pairs.sum()), "rows": rows})


def measure(task: Task, labels: NDArray[np.int64], n_items: int, of_last: bool) -> dict[str, Any]:
    """Measure the labels at each moment: churn, lift, each user's hit, NMI where it is known."""
    newest = labels[task.moments.offsets[1:] - 1]
    hits = intent_hits(newest, task.known, task.asked, n_items, users=task.users)
    figures: dict[str, Any] = {"churn": churn(task.moments, labels, of_last), "lift@20": hits.lift}
    figures["hits"] = hits.by_intent
    if task.truth is not None:
        figures["NMI"] = float(normalized_mutual_info_score(task.truth, newest))
    return figures


def compared(
    rule: Rule, of_rule: dict[str, list[Any]], usual: dict[str, list[Any]]
) -> dict[str, Any]:
    """Return the means over seeds, and how far they are from those by the default rule.

    Users of logs that differ by seed are other users.
    """
    sizes = {hits.size for hits in usual["hits"]}
    join = np.concatenate if "NMI" in usual or len(sizes) > 1 else lambda hits: np.mean(hits, 0)
    means = {name: float(np.mean(of)) for name, of in of_rule.items() if name != "hits"}
    return {
        "rule": str(rule),
        "default": rule == DEFAULT,
        **means,
        "fewer": 1 - means["churn"] / float(np.mean(usual["churn"])),
        "lift_change": asdict(paired_change(join(of_rule["hits"]), join(usual["hits"]))),
    }


if __name__ == "__main__":
    main()
