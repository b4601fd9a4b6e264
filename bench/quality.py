"""Recommendation and label quality on the benchmark data: the figures of docs/results.md.

    python bench/quality.py --dataset beauty --seeds 1 2 3
    python bench/quality.py --dataset beauty --set intent_loss=none   # without clustering
    python bench/quality.py --preset paper --ablation B+ELCM --set max_epochs=20
    python bench/quality.py --dataset ml-100k --split time            # see bench/splits.py

Trains the preset, picks the epoch on validation, and prints a row a seed: the test figures, and
what labels made from all but the newest two events are worth beside k-means (same k, 20 iterations,
spherical) on the mean of each user's item embeddings of the same model. Then, for the last seed,
how many labels outlive the loss of an event, by confidence, and how many change with new events,
by the ratio of probabilities at which another intent wins.

`--split time` is for logs with real times. What happened before a validation time is learned until
the first items of users from then on are ranked no better. Then as many epochs are learned of all
that happened before a test time, after which the targets come.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.record import add_option, record
from bench.splits import FILES, INTENTS, LOGS, Side, read_histories, sides
from elcrec import Config, ELCRec, EpochReport, Histories
from elcrec.intents import (
    intent_lift,
    label_survival,
    largest_share,
    spherical_kmeans,
    utilisation,
)

COLUMNS = ("HR@5", "NDCG@5", "HR@20", "NDCG@20")
EVENTS_SINCE, RATIOS = (1, 3), (1.0, 5.0, 20.0, 100.0, float("inf"))


def kmeans_labels(model: ELCRec, known: Histories, seed: int) -> NDArray[np.int64]:
    """k-means on the mean item embedding of each history, int64 `[n]`."""
    assert model.network is not None
    table = model.network.items.weight.detach()
    owners = torch.from_numpy(np.repeat(np.arange(len(known)), known.lengths))
    rows = table[torch.from_numpy(known.items.astype(np.int64))]
    sums = torch.zeros(len(known), table.shape[1]).index_add_(0, owners, rows)
    return spherical_kmeans(sums, model.config.n_intents, 20, seed)[1].numpy()


def label_figures(
    labels: NDArray[Any], histories: Histories, n_items: int, intents: int
) -> tuple[float, float, float]:
    """Intent lift@20, utilisation and largest share."""
    lift = intent_lift(labels, histories, n_items)
    return lift, utilisation(labels, intents), largest_share(labels)


HeldRow = tuple[int, float, float, float]


def held_labels(model: ELCRec, histories: Histories, n_items: int) -> list[HeldRow]:
    """Hold labels against those of some events ago: how many change, and what they are worth.

    Rows of events since, ratio, share of users with another label than then, and lift@20.
    """
    known = histories.drop_last(2)
    rows = []
    for events in EVENTS_SINCE:
        earlier = model.transform(known.drop_last(events)).intent
        for ratio in RATIOS:
            now = model.transform(known, earlier, ratio).intent
            changed = float((now != earlier)[earlier >= 0].mean())
            rows.append((events, ratio, changed, intent_lift(now, histories, n_items)))
    return rows


def first_after(side: Side) -> tuple[Histories, NDArray[np.bool_]]:
    """Histories that end with the first target of each user, as `ELCRec.fit` validates on it.

    Of those who are held out, bool `[n]`, the newest two events are the target, twice: `fit` holds
    out two, validates on the first, and never looks at the second.
    """
    users, first = np.unique(side.users, return_index=True)
    known = side.learn.lengths[users] > 0
    held_out = np.zeros(len(side.learn), bool)
    held_out[users[known]] = True
    targets = dict(zip(users[known], side.asked.targets[first[known]], strict=True))
    rows = [
        np.append(side.learn[user], [targets[user]] * 2) if held_out[user] else side.learn[user]
        for user in range(len(side.learn))
    ]
    return Histories.from_lists(rows), held_out


def fit_by_time(config: Config, validation: Side, test: Side) -> tuple[ELCRec, int]:
    """Choose the number of epochs on validation, learn so many of what the test may know.

    Returns the model and the number of epochs.
    """
    histories, held_out = first_after(validation)
    chosen = ELCRec(config).fit(histories, validation.n_items, held_out=held_out, on_epoch=say)
    epochs = chosen.history[-1].best_epoch
    longest = np.arange(len(test.learn)) == test.learn.lengths.argmax()  # somebody has to be
    known = replace(config, max_epochs=epochs)
    model = ELCRec(known).fit(
        test.learn, test.n_items, held_out=longest, keep_last=True, on_epoch=say
    )
    return model, epochs


def by_time(given: argparse.Namespace, changes: dict[str, Any]) -> None:
    """Train once a seed on a log with real times, and print and record the test figures."""
    validation, test = sides(given.dataset)
    intents = INTENTS[given.dataset]
    users, targets = int(np.unique(test.users).size), int(test.users.size)
    labelled = int(np.unique(test.users[test.learn.lengths[test.users] > 0]).size)
    print(f"{targets} targets of {users} users, {labelled} of whom have labels\n")
    columns = (*COLUMNS, "lift@20", "utilisation", "largest_share", "kmeans_lift@20")
    columns += ("epochs", "seconds")
    print("| seed | " + " | ".join(columns) + " |\n| " + "---: | " * (1 + len(columns)))
    runs = []
    for seed in given.seeds:
        values = {"seed": seed, "n_intents": intents, "threads": given.threads} | changes
        start = time.process_time()
        model, epochs = fit_by_time(Config.preset(given.preset, **values), validation, test)
        seconds = time.process_time() - start
        labels = model.transform(test.learn).intent
        of_kmeans = np.where(labels < 0, -1, kmeans_labels(model, test.learn, seed))
        run: dict[str, Any] = {"seed": seed}
        run |= test.figures(model.ranks(test.asked))
        run |= {"lift@20": test.lift(labels), "utilisation": utilisation(labels, intents)}
        run |= {"largest_share": largest_share(labels), "kmeans_lift@20": test.lift(of_kmeans)}
        run |= {"epochs": epochs, "seconds": round(seconds, 1)}
        print(f"| {seed} | " + " | ".join(f"{run[name]:.4g}" for name in columns) + " |")
        runs.append(run)
    of_data = {"users": users, "targets": targets, "labelled": labelled, "intents": intents}
    record(given.record, of_data | {"runs": runs})


def say(report: EpochReport) -> None:
    """One line an epoch, on stderr."""
    losses = " ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
    found = f"NDCG@20 {report.metrics['NDCG@20']:.4f}"
    print(f"epoch {report.epoch} {losses} {found} {report.seconds:.0f} s", file=sys.stderr)


def main() -> None:
    """Train once a seed and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=[*FILES, *LOGS], default="beauty")
    parser.add_argument("--split", choices=["leave-one-out", "time"], default="leave-one-out")
    parser.add_argument("--preset", choices=["default", "paper"], default="default")
    parser.add_argument("--ablation", choices=["B", "B+ICL", "B+ELCM", "full"], default="full")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="of Config")
    add_option(parser)
    given = parser.parse_args()
    changes: dict[str, Any] = {}
    for pair in given.set:
        name, _, value = pair.partition("=")
        try:
            changes[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changes[name] = value

    if (given.split == "time") != (given.dataset in LOGS):
        parser.error(f"--split time is for {' and '.join(LOGS)}, leave-one-out for the others")
    if given.split == "time":
        by_time(given, changes)
        return
    histories, n_items = read_histories(given.dataset)
    known = histories.drop_last(2)
    dataset = given.dataset if given.preset == "paper" else None
    intents = INTENTS[given.dataset]
    torch.set_num_threads(given.threads)
    print("| seed | " + " | ".join(COLUMNS) + " | lift@20 | utilisation | largest share |", end="")
    print(" k-means lift@20 | epochs | minutes |\n| " + "---: | " * 11)
    runs = []
    for seed in given.seeds:
        values = {"seed": seed, "n_intents": intents, "threads": given.threads} | changes
        config = Config.preset(given.preset, dataset, **values).ablation(given.ablation)
        start = time.perf_counter()
        model = ELCRec(config).fit(histories, n_items, on_epoch=say)
        minutes = (time.perf_counter() - start) / 60
        test = model.evaluate(histories)
        labels = model.transform(known).intent
        lift, used, largest = label_figures(labels, histories, n_items, intents)
        other, *_ = label_figures(kmeans_labels(model, known, seed), histories, n_items, intents)
        row = [f"{test[name]:.4f}" for name in COLUMNS]
        row += [f"{lift:.2f}", f"{used:.2f}", f"{largest:.3f}", f"{other:.2f}"]
        print(f"| {seed} | {' | '.join(row)} | {len(model.history)} | {minutes:.1f} |", flush=True)
        runs.append(
            {
                "seed": seed,
                **{name: test[name] for name in COLUMNS},
                "lift@20": lift,
                "utilisation": used,
                "largest_share": largest,
                "kmeans_lift@20": other,
                "epochs": len(model.history),
                "minutes": minutes,
            }
        )
        last = label_survival(model.transform, known)
    print("\n| confidence | users | keep it without the oldest event | without the newest |")
    print("| ---: | ---: | ---: | ---: |")
    for at in last:
        shares = (at.users, at.without_oldest, at.without_newest)
        print(f"| >= {at.confidence:.1f} | " + " | ".join(f"{x:.3f}" for x in shares) + " |")
    print("\n| events since | ratio | users with another label | lift@20 |")
    print("| ---: | ---: | ---: | ---: |")
    held = held_labels(model, histories, n_items)
    for events, ratio, changed, lift in held:
        print(f"| {events} | {ratio:g} | {changed:.3f} | {lift:.2f} |")
    record(
        given.record,
        {
            "runs": runs,
            "survival": [asdict(at) for at in last],
            "held": [  # ratio: a number or "inf", which JSON has no number for
                {"events_since": events, "ratio": f"{ratio:g}", "changed": changed, "lift@20": lift}
                for events, ratio, changed, lift in held
            ],
        },
    )


if __name__ == "__main__":
    main()
