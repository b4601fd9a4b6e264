"""Recommendation and label quality on the benchmark data: the figures of docs/results.md.

    python bench/quality.py --dataset beauty --seeds 1 2 3
    python bench/quality.py --dataset beauty --set intent_loss=none   # without clustering
    python bench/quality.py --preset paper --ablation B+ELCM --set max_epochs=20

Trains the preset, picks the epoch on validation, and prints a row a seed: the test figures, and
what labels made from all but the newest two events are worth beside k-means (same k, 20 iterations,
spherical) on the mean of each user's item embeddings of the same model. Then, for the last seed,
how many labels outlive the loss of an event, by confidence, and how many change with new events,
by the ratio of probabilities at which another intent wins.
"""

from __future__ import annotations

import argparse
import ast
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.record import add_option, record
from elcrec import Config, ELCRec, EpochReport, Histories
from elcrec.intents import (
    intent_lift,
    label_survival,
    largest_share,
    spherical_kmeans,
    utilisation,
)

REPO = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ELCREC_DATA") or REPO.parent / "shared" / "data")
FILES = {"beauty": "Beauty.txt", "sports": "Sports_and_Outdoors.txt"}
INTENTS = {"beauty": 256, "sports": 512}  # as in the paper
COLUMNS = ("HR@5", "NDCG@5", "HR@20", "NDCG@20")
EVENTS_SINCE, RATIOS = (1, 3), (1.0, 5.0, 20.0, 100.0, float("inf"))


def read_histories(dataset: str) -> tuple[Histories, int]:
    """Read a benchmark file, a user and items a line; return histories and number of items."""
    lines = (DATA / FILES[dataset]).read_text().splitlines()
    histories = Histories.from_lists([np.array(line.split()[1:], int) for line in lines])
    return histories, int(histories.items.max())


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
    parser.add_argument("--dataset", choices=FILES, default="beauty")
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
