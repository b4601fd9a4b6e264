"""The paper's evidence from trainings here: Table 1, Figure 2, cost, convergence, labels.

    python bench/paper.py train --dataset beauty --seeds 1 2 3      # Table 1
    python bench/paper.py train --ablations B B+ICL B+ELCM          # Figure 2
    python bench/paper.py train --as-published                      # the published code's step
    python bench/paper.py train --as-written                        # the text's
    python bench/paper.py between --label mix --set …               # warm-up's and last weights
    python bench/paper.py cost                                      # of alternating optimisation
    python bench/paper.py show                                      # tables and the picture

`train` trains preset `paper` until it stops by itself and writes a JSON file a training under
--results: what each epoch gave, the test figures and the labels of the best epoch so far (while
warming up, of the last), the config, the machine, the commit and the command. It may be killed at
any time: the same command goes on from the last epoch. On one core an epoch of Beauty takes about
8 s, and 43 s as published, with padding; a training has 100 to 300. Toys and Yelp are read from
--file, a user and items a line.

With --from NAME a training without a checkpoint goes on from that of training NAME, by its own
settings. So stages of a training can differ.

`between` takes the checkpoint of such a training, done or not, that has `warmup_share`. It measures
weights on the line between those that the warm-up ended with and those of the last epoch.

`cost` measures an epoch end to end beside one of the alternating optimisation that ELCRec replaces:
k-means over all users, then an epoch with the centres held, without the clustering loss.

`show` prints the tables in Markdown, each figure beside the published one, and draws the validation
figure of all trainings by epoch into paper-convergence.svg beside the JSON files.
"""

from __future__ import annotations

import argparse
import ast
import datetime as dt
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import torch
from torch import Tensor

from bench.record import RESULTS, command, commit, machine, read
from elcrec import Config, ELCRec, ELCRecError, EpochReport, Histories, checkpoint
from elcrec.config import PAPER_AS_PUBLISHED, PAPER_AS_WRITTEN, PAPER_DATASETS
from elcrec.estimator import what_it_learns_by
from elcrec.evaluation import BLOCK_USERS, behaviours
from elcrec.intents import intent_lift, largest_share, perplexity, spherical_kmeans
from elcrec.model import Network
from elcrec.training import Trainer

REPO = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ELCREC_DATA") or REPO.parent / "shared" / "data")
CHECKPOINTS = REPO / "build" / "paper"  # not part of the repository
PICTURE = "paper-convergence.svg"
FILES = {
    "beauty": "Beauty.txt",
    "sports": "Sports_and_Outdoors.txt",
    "toys": "Toys_and_Games.txt",
    "yelp": "Yelp.txt",
}
ABLATIONS = ("B", "B+ICL", "B+ELCM", "full")
AS = {"published": PAPER_AS_PUBLISHED, "written": PAPER_AS_WRITTEN}
COLUMNS = ("HR@5", "HR@20", "NDCG@5", "NDCG@20")
PUBLISHED = {  # Table 1, ELCRec
    "beauty": (0.0529, 0.1079, 0.0355, 0.0509),
    "sports": (0.0286, 0.0648, 0.0185, 0.0286),
    "toys": (0.0585, 0.1138, 0.0403, 0.0560),
    "yelp": (0.0236, 0.0653, 0.0150, 0.0266),
}
# Figure 2: the sum of the four, read off the bars but for `full`, which is Table 1's.
PUBLISHED_SUMS = {
    "beauty": {"B": 0.239, "B+ICL": 0.240, "B+ELCM": 0.243, "full": 0.2472},
    "sports": {"B": 0.134, "B+ICL": 0.138, "B+ELCM": 0.140, "full": 0.1405},
}
MEASURED_EVERY = 10  # epochs
BETWEEN = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)  # shares of the warm-up's weights
COST_ROUNDS = 3
KMEANS_ITERATIONS, KMEANS_STARTS = 20, 5  # of the alternating optimisation's published code


def read_histories(dataset: str, file: Path | None) -> tuple[Histories, int]:
    """Read a benchmark file, a user and items a line; return histories and number of items."""
    lines = (file or DATA / FILES[dataset]).read_text().splitlines()
    histories = Histories.from_lists([[int(item) for item in line.split()[1:]] for line in lines])
    return histories, int(histories.items.max())


def label_figures(model: ELCRec, histories: Histories, n_items: int, seed: int) -> dict[str, float]:
    """Measure labels made without the newest two events, and k-means on mean item vectors.

    The latter, with as many centres, is what the labels have to beat.
    """
    assert model.network is not None
    known = histories.drop_last(2)
    labels = model.transform(known).intent
    table = model.network.items.weight.detach()
    owners = torch.from_numpy(np.repeat(np.arange(len(known)), known.lengths))
    rows = table[torch.from_numpy(known.items.astype(np.int64))]
    sums = torch.zeros(len(known), table.shape[1]).index_add_(0, owners, rows)
    plain = spherical_kmeans(sums, model.config.n_intents, KMEANS_ITERATIONS, seed)[1].numpy()
    return {
        "perplexity": perplexity(labels),
        "largest share": largest_share(labels),
        "lift@20": intent_lift(labels, histories, n_items),
        "k-means lift@20": intent_lift(plain, histories, n_items),
    }


def unfinished(folder: Path, config: Config, n_items: int) -> ELCRec:
    """Load the model of the best epoch of an unfinished training; in its warm-up, of the last."""
    tensors, facts = checkpoint.read(folder, "training")
    weights = checkpoint.under(tensors, "best." if facts["best_epoch"] else "weight.")
    model = ELCRec(config)
    model.n_items = n_items
    model.network = Network(config, n_items)
    model.network.load_state_dict({"shares": tensors["shares"]} | weights)
    model.network.eval()
    return model


def write_result(path: Path, figures: dict[str, Any]) -> None:
    """Write figures with what they depend on, whole or not at all, an epoch a line."""
    epochs = figures.get("epochs", [])
    result = {
        "command": command(sys.argv),
        "commit": commit(),
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": machine(),
        "figures": figures | ({"epochs": None} if epochs else {}),
    }
    lines = ",\n   ".join(json.dumps(epoch) for epoch in epochs)
    text = json.dumps(result, indent=1).replace('"epochs": null', f'"epochs": [\n   {lines}\n  ]')
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n")
    partial.replace(path)


def name_of(given: argparse.Namespace, ablation: str, seed: int) -> str:
    """Name a training by what it is of and what the command line changes."""
    parts = [given.dataset, ablation.lower().replace("+", "-")]
    parts += [f"as-{given.way_of}"] if given.way_of else []
    parts += [given.label] if given.label else []
    return "-".join([*parts, str(seed)])


def train(
    given: argparse.Namespace,
    ablation: str,
    seed: int,
    histories: Histories,
    n_items: int,
) -> None:
    """Train until it stops by itself, going on from what an earlier call left; write JSON."""
    config = config_of(given, ablation, seed)
    name = name_of(given, ablation, seed)
    path, folder = given.results / f"paper-{name}.json", given.checkpoints / name
    if path.exists() and json.loads(path.read_text())["figures"]["done"]:
        print(f"{path.name} is done: remove it to train again", file=sys.stderr)
        return
    figures: dict[str, Any] = {
        "name": name,
        "dataset": given.dataset,
        "ablation": ablation,
        "done": False,
        "config": config.to_dict(),
        "epochs": [],
    }

    def measure(model: ELCRec, epochs: list[EpochReport]) -> None:
        figures["epochs"] = [rounded(report) for report in epochs]
        figures["measured_epoch"] = epochs[-1].best_epoch or epochs[-1].epoch
        figures["test"] = model.evaluate(histories)
        figures["labels"] = label_figures(model, histories, n_items, config.seed)
        write_result(path, figures)

    if given.begin and not (folder / "training.json").exists():
        go_on_from(given.checkpoints / given.begin, folder, config)

    # The fit's own list holds the epochs of earlier calls too.
    model = ELCRec(config)

    def say(report: EpochReport) -> None:
        losses = " ".join(f"{name} {value:.3f}" for name, value in report.losses.items())
        found = f"NDCG@20 {report.metrics['NDCG@20']:.4f}"
        print(f"{name} epoch {report.epoch} {losses} {found} {report.seconds:.0f} s", flush=True)
        if report.epoch % MEASURED_EVERY == 0:
            measure(unfinished(folder, config, n_items), model.history)

    model.fit(histories, n_items, checkpoint_dir=folder, on_epoch=say)
    figures["done"] = True
    measure(model, model.history)


def go_on_from(other: Path, folder: Path, config: Config) -> None:
    """Let a training go on from another's checkpoint, by settings of its own.

    What the other one ended with takes the place of the warm-up's weights (`warmup_share`).
    Raises ELCRecError where the other one has no checkpoint.
    """
    tensors, facts = checkpoint.read(other, "training")
    facts["config"] = what_it_learns_by(config)
    kept = {n: t for n, t in tensors.items() if not n.startswith("warmed_up.")}
    if config.warmup_share:
        kept |= {f"warmed_up.{name}": t.clone() for name, t in last_of(tensors).items()}
    checkpoint.write(folder, "training", kept, facts)


def last_of(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of a checkpoint's last epoch, the averages where there are any."""
    return checkpoint.under(tensors, "weight.") | checkpoint.under(tensors, "average.")


def measure_between(
    given: argparse.Namespace,
    ablation: str,
    seed: int,
    histories: Histories,
    n_items: int,
) -> None:
    """Measure weights between those that a training's warm-up ended with and its last; write JSON.

    Raises ELCRecError without a checkpoint, and for one that has not both.
    """
    name = name_of(given, ablation, seed)
    tensors, facts = checkpoint.read(given.checkpoints / name, "training")
    last, warm = last_of(tensors), checkpoint.under(tensors, "warmed_up.")
    if not warm:
        raise ELCRecError(f"{name} has no weights of a warm-up: train it with warmup_share")
    model = unfinished(given.checkpoints / name, config_of(given, ablation, seed), n_items)
    assert model.network is not None
    shares = []
    for share in BETWEEN:
        between = {n: value.lerp(warm[n], share) for n, value in last.items()}
        model.network.load_state_dict({"shares": tensors["shares"]} | between)
        measured = {split: model.evaluate(histories, split) for split in ("validation", "test")}
        shares.append({"share": share} | measured)
        print(f"{name} {share:.0%} {measured['validation']}", flush=True)
    found = {"name": name, "dataset": given.dataset, "epoch": facts["epoch"], "between": shares}
    write_result(given.results / f"paper-between-{name}.json", found)


def rounded(report: EpochReport) -> dict[str, Any]:
    """Give an epoch in few digits: losses, validation metrics, seconds."""
    whole = asdict(report)
    return {
        "epoch": report.epoch,
        "losses": {name: round(value, 5) for name, value in whole["losses"].items()},
        "validation": {name: round(value, 5) for name, value in whole["metrics"].items()},
        "seconds": round(report.seconds, 1),
    }


def end_to_end(trainer: Trainer, number: int) -> None:
    """Train an epoch as ELCRec does."""
    trainer.epoch(number)


def alternating(trainer: Trainer, number: int) -> None:
    """Place the centres by k-means over all users, then train an epoch with them held there."""
    trainer.network.eval()
    known = trainer.known
    with torch.no_grad():
        h = torch.cat(
            [
                behaviours(trainer.network, known.slice(i, min(i + BLOCK_USERS, len(known))))
                for i in range(0, len(known), BLOCK_USERS)
            ]
        )
    k = trainer.config.n_intents
    centers, _ = spherical_kmeans(h, k, KMEANS_ITERATIONS, number, KMEANS_STARTS)
    trainer.place_centers(centers)
    trainer.epoch(number)


WAYS: dict[str, Callable[[Trainer, int], None]] = {
    "end to end": end_to_end,
    "alternating": alternating,
}


def cost_of(way: str, config: Config, histories: Histories, n_items: int) -> dict[str, float]:
    """Measure an epoch, after a first one to warm up, and the peak memory of the process.

    Medians of seconds by the clock, and of processor time, which other programs disturb less.
    """
    if way == "alternating":
        config = config.ablation("B+ICL")
    torch.manual_seed(config.seed)
    network = Network(config, n_items)
    if way == "alternating":
        network.centers.requires_grad_(False)
    trainer = Trainer(network, histories, config)
    seconds, busy = [], []
    for number in range(1, COST_ROUNDS + 2):
        start, start_busy = time.perf_counter(), time.process_time()
        WAYS[way](trainer, number)
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - start_busy)
    return {
        "epoch_s": statistics.median(seconds[1:]),
        "epoch_processor_s": statistics.median(busy[1:]),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
    }


def measure_cost(given: argparse.Namespace) -> None:
    """Each way in a process of its own, in turn; write JSON."""
    if given.way:
        histories, n_items = read_histories(given.dataset, given.file)
        config = config_of(given, "full", 1)
        print(json.dumps(cost_of(given.way, config, histories, n_items)))
        return
    found = {}
    for way in WAYS:
        again = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        env = {**os.environ, "PYTHONPATH": str(REPO)}
        done = subprocess.run(again, check=True, env=env, stdout=subprocess.PIPE, text=True)
        found[way] = json.loads(done.stdout.splitlines()[-1])
        print(f"{way}: {found[way]}", file=sys.stderr)
    name = given.dataset + (f"-as-{given.way_of}" if given.way_of else "")
    figures = {"dataset": given.dataset, "name": name, "threads": given.threads, "ways": found}
    write_result(given.results / f"paper-cost-{name}.json", figures)


def config_of(given: argparse.Namespace, ablation: str, seed: int) -> Config:
    """Make the preset's config with what the command line changes."""
    changes: dict[str, Any] = dict(AS.get(given.way_of, {}))
    for pair in given.set:
        field, _, value = pair.partition("=")
        try:
            changes[field] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            changes[field] = value
    values = {"threads": given.threads, "validation_users": 10**9, **changes, "seed": seed}
    config = Config.preset("paper", given.dataset, **values)
    return replace(config.ablation(ablation), epoch_windows=10**9)


def figures_of(folder: Path, what: str) -> list[dict[str, Any]]:
    """Return the figures of all trainings ("epochs") or costs ("ways"), by the files' names."""
    paper = [result["figures"] for name, result in read(folder).items() if "paper-" in name]
    return [figures for figures in paper if what in figures]


def show(folder: Path) -> None:
    """Print the tables, draw the picture."""
    results = figures_of(folder, "epochs")
    print("| training | " + " | ".join(COLUMNS) + " | sum | best of epochs |")
    print("| --- |" + " ---: |" * 6)
    for dataset in PAPER_DATASETS:
        of_dataset = [r for r in results if r["dataset"] == dataset and "test" in r]
        if not of_dataset:
            continue
        published = PUBLISHED[dataset]
        sums = " · ".join(f"{k} {v:g}" for k, v in PUBLISHED_SUMS.get(dataset, {}).items())
        cells = " | ".join(f"{value:.4f}" for value in published)
        print(f"| {dataset}, published | {cells} | {sum(published):.4f} ({sums}) | |")
        for result in of_dataset:
            test = [result["test"][column] for column in COLUMNS]
            cells = " | ".join(
                f"{value:.4f} ({value / there:.0%})"
                for value, there in zip(test, published, strict=True)
            )
            trained = f"{result['measured_epoch']} of {len(result['epochs'])}"
            end = "" if result["done"] else ", not done"
            print(f"| {result['name']} | {cells} | {sum(test):.4f} | {trained}{end} |")
    print(
        "\n| labels of | perplexity | utilisation | largest share | lift@20 | lift@20 of k-means |"
    )
    print("| --- |" + " ---: |" * 5)
    for result in results:
        if "labels" in result:
            of = result["labels"]
            used = of["perplexity"] / result["config"]["n_intents"]
            row = [f"{of['perplexity']:.1f}", f"{used:.2f}", f"{of['largest share']:.3f}"]
            row += [f"{of['lift@20']:.2f}", f"{of['k-means lift@20']:.2f}"]
            print(f"| {result['name']} | {' | '.join(row)} |")
    costs = figures_of(folder, "ways")
    if costs:
        print("\n| processor time on | alternating | end to end | change | MB | MB end to end |")
        print("| --- |" + " ---: |" * 5)
    for cost in costs:
        there, here = cost["ways"]["alternating"], cost["ways"]["end to end"]
        before, after = there["epoch_processor_s"], here["epoch_processor_s"]
        row = [f"{before:.1f} s an epoch", f"{after:.1f}", f"{after / before - 1:+.1%}"]
        row += [f"{there['peak_mb']:.0f}", f"{here['peak_mb']:.0f}"]
        print(f"| {cost['name']} | {' | '.join(row)} |")
    curves = {
        result["name"]: [(e["epoch"], e["validation"]["NDCG@20"]) for e in result["epochs"]]
        for result in results
        if result["epochs"]
    }
    if curves:
        (folder / PICTURE).write_text(picture(curves))


WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 380, 60, 190, 16, 44
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def picture(curves: dict[str, list[tuple[int, float]]]) -> str:
    """Draw validation NDCG@20 by epoch as SVG, a line a training: name to (epoch, value)."""
    last = max(epoch for curve in curves.values() for epoch, _ in curve)
    highest = max(value for curve in curves.values() for _, value in curve)
    top = max(np.ceil(highest * 100) / 100, 0.01)

    def at(epoch: float, value: float) -> tuple[float, float]:
        x = LEFT + (WIDTH - LEFT - RIGHT) * epoch / last
        return round(x, 1), round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * value / top, 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for value in np.linspace(0, top, 6):
        x, y = at(0, value)
        parts.append(f'<path d="M{x} {y}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{value:.3f}</text>')
    for epoch in np.unique(np.linspace(0, last, 6).round().astype(int)):
        x, y = at(epoch, 0)
        parts.append(f'<text x="{x}" y="{y + 16}" text-anchor="middle">{epoch}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">epoch</text>')
    parts.append(f'<text x="{LEFT}" y="{TOP - 4}">validation NDCG@20</text>')
    for number, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x},{y}" for x, y in (at(*point) for point in curve))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        y = TOP + 14 + 18 * number
        parts.append(
            f'<text x="{WIDTH - RIGHT + 10}" y="{y}" fill="{colour}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


def main() -> None:
    """Do what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("do", choices=["train", "between", "cost", "show"])
    parser.add_argument("--dataset", choices=FILES, default="beauty")
    parser.add_argument("--file", type=Path, help="of the data set, if not in the usual folder")
    parser.add_argument("--ablations", choices=ABLATIONS, nargs="+", default=["full"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, default=1)
    for name, what in {
        "published": "the published code does",
        "written": "the text has it",
    }.items():
        parser.add_argument(
            f"--as-{name}", dest="way_of", action="store_const", const=name, help=f"train as {what}"
        )
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="of Config")
    parser.add_argument("--label", default="", help="of what --set makes, in the file's name")
    parser.add_argument(
        "--from",
        dest="begin",
        metavar="NAME",
        help="let train go on from the checkpoint of this one",
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON files")
    parser.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="to go on from")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if bool(given.set) != bool(given.label):
        parser.error("--set and --label go together: the label tells the trainings apart")

    # Contrasts of far-apart sequences give probabilities too small for normal floats; as denormal
    # ones they make the products of a step take twice as long.
    torch.set_flush_denormal(True)
    torch.set_num_threads(given.threads)
    if given.do == "show":
        show(given.results)
    elif given.do == "cost":
        measure_cost(given)
    else:
        histories, n_items = read_histories(given.dataset, given.file)
        do = train if given.do == "train" else measure_between
        for ablation in given.ablations:
            for seed in given.seeds:
                do(given, ablation, seed, histories, n_items)


if __name__ == "__main__":
    main()
