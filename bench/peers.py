"""What people would use instead, on the same data and splits: the figures of docs/results.md.

    python -m venv build/peers && build/peers/bin/pip install -r bench/peers.txt
    .venv/bin/python bench/peers.py --data beauty

Each peer learns in a process of that environment (`bench/peer_models.py`), which gives labels, or
lists of items, back as arrays. Here they are judged by the same code as the project's own. A peer
has its documented defaults, and one or two settings that are chosen on validation (`PEERS`); it
never sees a target of the test. A peer whose figures are kept already is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.record import RESULTS, add_option, record
from bench.splits import FILES, INTENTS, LOGS, REPO, Side, sides
from elcrec.evaluation import distinct_seen, is_repeat, popularity_ranks
from elcrec.histories import Histories
from elcrec.intents import largest_share, perplexity

PYTHON = Path(os.environ.get("PEERS_PYTHON") or REPO / "build" / "peers" / "bin" / "python")
PROGRAM = REPO / "bench" / "peer_models.py"
CHOSEN_BY = {"labels": "lift@20", "items": "NDCG@20"}  # on validation

Settings = dict[str, Any]


@dataclass(frozen=True)
class Peer:
    """A peer, what it gives, and the settings of which validation chooses."""

    title: str
    gives: str  # labels or items
    choices: tuple[Settings, ...]


ALS = {"factors": 100, "regularization": 0.01}  # the defaults of implicit
ALPHAS = (1.0, 10.0, 40.0)  # its default, and up to that of the paper of ALS
SASREC = {"factors": 64, "dropout": 0.2, "negatives": 128, "cpu_seconds": 1200}
PEERS = {
    "als-kmeans": Peer(
        "ALS (implicit), k-means",
        "labels",
        (
            ALS | {"alpha": 1.0, "normalise": False},
            *(ALS | {"alpha": alpha, "normalise": True} for alpha in ALPHAS),
        ),
    ),
    "lda": Peer("LDA on histories (scikit-learn)", "labels", ({"passes": 3},)),
    "item2vec-kmeans": Peer(
        "item2vec (gensim), k-means",
        "labels",
        tuple({"epochs": epochs, "normalise": True} for epochs in (5, 50)),
    ),
    "item2vec-hdbscan": Peer(
        "item2vec (gensim), HDBSCAN",
        "labels",
        ({"epochs": 50, "least_users": 5},),
    ),
    "ppmi-kmeans": Peer(
        "SVD of co-occurrence (PPMI), k-means",
        "labels",
        tuple({"normalise": normalise} for normalise in (False, True)),
    ),
    "als": Peer(
        "ALS (implicit)",
        "items",
        tuple(ALS | {"alpha": alpha} for alpha in ALPHAS),
    ),
    "item-to-item": Peer(
        "item-to-item, cosine (implicit)",
        "items",
        tuple({"neighbours": neighbours} for neighbours in (20, 200)),
    ),
    "ease": Peer(
        "EASE (RecTools)",
        "items",
        tuple({"regularization": weight} for weight in (500.0, 100.0)),
    ),
    "sasrec": Peer("SASRec, sampled softmax (RecTools)", "items", (SASREC,)),
}


@dataclass(frozen=True)
class Answers:
    """What a peer gave: labels, or (items, scores) of each side that was asked for."""

    labels: NDArray[np.int64] | None
    lists: dict[str, tuple[NDArray[np.int32], NDArray[np.float32]]]
    report: dict[str, Any]


def write_histories(file: Path, histories: Histories, **more: Any) -> None:
    """Write histories as a peer reads them, without pickle."""
    np.savez(file, items=histories.items, offsets=histories.offsets, **more)


def learn(name: str, settings: Settings, learned: Side, asked: dict[str, Side]) -> Answers:
    """Let a peer learn in its own process, and read what it gives.

    asked: sides for which items are asked, by `validation` and `test`. Only the targets of
    validation are handed over. Raises SystemExit with the peer's last words when it fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        (where / "settings.json").write_text(json.dumps(settings), "utf-8")
        write_histories(where / "learn.npz", learned.learn, n_items=learned.n_items)
        for side, of in asked.items():
            targets = {"targets": of.asked.targets} if side == "validation" else {}
            write_histories(where / f"{side}.npz", of.asked.histories, **targets)
        one_thread = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")}
        done = subprocess.run(
            [PYTHON, PROGRAM, name, where],
            env=os.environ | one_thread | {"PYTHONHASHSEED": "0", "PYTHONPATH": ""},
            cwd=where,
            stdout=sys.stderr,
        )
        if done.returncode:
            raise SystemExit(
                f"{name} ended with exit status {done.returncode}: its last lines are above; "
                "bench/peers.txt has what its environment needs"
            )
        return read_answers(where, learned, asked)


def read_answers(where: Path, learned: Side, asked: dict[str, Side]) -> Answers:
    """Read the files of a peer, and refuse what does not fit the question.

    Raises ValueError for arrays of another shape, or of values that are no label and no item.
    """
    report = json.loads((where / "report.json").read_text("utf-8"))
    if (where / "labels.npz").exists():
        with np.load(where / "labels.npz", allow_pickle=False) as data:
            labels = data["labels"]
        if labels.shape != (len(learned.learn),) or labels.dtype.kind != "i" or labels.min() < -1:
            raise ValueError(f"labels.npz needs a label from -1 on for {len(learned.learn)} users")
        return Answers(labels.astype(np.int64), {}, report)
    lists = {}
    for side, of in asked.items():
        with np.load(where / f"recommended-{side}.npz", allow_pickle=False) as data:
            items, scores = data["items"], data["scores"]
        rows = of.asked.targets.size
        if items.shape != scores.shape or items.shape[:1] != (rows,):
            raise ValueError(f"recommended-{side}.npz needs a list for each of {rows} histories")
        if items.dtype.kind != "i" or items.min() < 0 or items.max() > of.n_items:
            raise ValueError(f"recommended-{side}.npz has items beyond {of.n_items}")
        lists[side] = items.astype(np.int32), scores.astype(np.float32)
    return Answers(None, lists, report)


def list_ranks(
    items: NDArray[np.integer], scores: NDArray[np.floating], side: Side
) -> NDArray[np.int64]:
    """Rank of each target in its list, int64 `[m]`, 0 is first; the list's length where it is not.

    items: `[m, c]`, the best first, 0 in a place that is empty; scores: of these. As everywhere,
    an item with the target's own score counts as ranked before it. So a rank below `c` is right
    although the list ends.

    Raises ValueError for a list with an item that its user has had, or with one item twice, and
    for a side with targets that are had.
    """
    if is_repeat(side.asked).any():
        raise ValueError("lists without the items that a user has had cannot find a repeat")
    width = side.n_items + 1
    rows = np.repeat(np.arange(items.shape[0]), items.shape[1])
    there = items.ravel() > 0
    pairs = (rows * width + items.ravel())[there]
    had_users, had_items = distinct_seen(side.asked)
    had = np.isin(pairs, had_users * width + had_items)
    if had.any():
        raise ValueError(f"the list of row {pairs[had][0] // width} has an item that is had")
    if np.unique(pairs).size < pairs.size:
        raise ValueError("a list has an item twice")
    hit = items == side.asked.targets[:, None]
    found = hit.any(1)
    own = np.where(found, scores[np.arange(hit.shape[0]), hit.argmax(1)], np.inf)
    before = ((scores >= own[:, None]) & (items > 0)).sum(1) - 1
    return np.where(found, before, items.shape[1])


def label_figures(labels: NDArray[np.integer], side: Side, intents: int) -> dict[str, float]:
    """Lift@20, utilisation and largest share of labels, how many there are, and how many lack one.

    Utilisation is of `intents`; with 0, as for a method that finds their number, of those in use.
    """
    known = labels[side.learn.lengths > 0]
    used = int(np.unique(known[known >= 0]).size)
    return {
        "lift@20": side.lift(labels),
        "utilisation": perplexity(known) / (intents or max(used, 1)),
        "largest_share": largest_share(known),
        "intents": used,
        "unlabelled": float((known < 0).mean()),
    }


def measure(name: str, validation: Side, test: Side, intents: int, seed: int) -> dict[str, Any]:
    """Choose a peer's settings on validation, and measure it on test."""
    peer = PEERS[name]
    once = validation.learn is test.learn  # leave-one-out learns the same for both
    tried = []
    for choice in peer.choices:
        settings = choice | {"seed": seed} | ({"k": intents} if peer.gives == "labels" else {})
        answers = learn(name, settings, validation, ask(peer, validation, test if once else None))
        if answers.labels is not None:
            worth = validation.lift(answers.labels)
        else:
            ranks = list_ranks(*answers.lists["validation"], validation)
            worth = validation.figures(ranks)["NDCG@20"]
        print(f"{name} {choice}: validation {CHOSEN_BY[peer.gives]} {worth:.4f}", file=sys.stderr)
        tried.append((worth, choice, answers))
    worth, _, answers = max(tried, key=lambda one: one[0])
    if not once:
        answers = learn(name, answers.report["settings"], test, ask(peer, None, test))
    figures: dict[str, Any] = {
        "title": peer.title,
        "gives": peer.gives,
        "seed": seed,
        "seconds": round(answers.report["seconds"], 1),
        "settings": answers.report["settings"],
        "tried": [{"settings": choice, CHOSEN_BY[peer.gives]: at} for at, choice, _ in tried],
    }
    if answers.labels is not None:
        k = 0 if name == "item2vec-hdbscan" else intents
        return figures | label_figures(answers.labels, test, k)
    return figures | test.figures(list_ranks(*answers.lists["test"], test))


def ask(peer: Peer, validation: Side | None, test: Side | None) -> dict[str, Side]:
    """Return the sides for which a peer is asked for items: none for labels."""
    named = {"validation": validation, "test": test}
    return {} if peer.gives == "labels" else {side: of for side, of in named.items() if of}


def popularity(test: Side) -> dict[str, Any]:
    """Measure the recommendation of what was most frequent."""
    counts = np.bincount(test.learn.items, minlength=test.n_items + 1)
    figures = test.figures(popularity_ranks(test.asked, counts))
    return {"title": "popularity", "gives": "items", "seconds": 0.0} | figures


def to_run(
    data: str, peers: Sequence[str], prefix: str | None, folder: Path = RESULTS
) -> list[str]:
    """Return the peers whose figures are not kept yet."""
    return [one for one in peers if not (folder / f"{prefix}-{data}-{one}.json").exists()]


def main() -> None:
    """Measure peers one after the other, and keep each one's figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=[*FILES, *LOGS], default="beauty")
    parser.add_argument("--peers", nargs="+", choices=["popularity", *PEERS])
    parser.add_argument("--seed", type=int, default=1)
    add_option(parser)
    given = parser.parse_args()
    if not PYTHON.exists():
        raise SystemExit(f"{PYTHON} is not there: make the peers' environment, see --help")
    asked = given.peers or ["popularity", *PEERS]
    validation, test = sides(given.data)
    for name in to_run(given.data, asked, given.record):
        if name == "popularity":
            figures = popularity(test)
        else:
            figures = measure(name, validation, test, INTENTS[given.data], given.seed)
        figures |= {"data": given.data, "users": int(np.unique(test.users).size)}
        figures |= {"targets": int(test.users.size)}
        print(json.dumps(figures, indent=1), flush=True)
        # The command that measures all of them: the same figures, whichever are asked for.
        called = [sys.argv[0], "--data", given.data]
        record(given.record and f"{given.record}-{given.data}-{name}", figures, called=called)


if __name__ == "__main__":
    main()
