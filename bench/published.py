"""An epoch, a full ranking and the way to the published quality, next to the published code.

Needs a checkout of github.com/yueliu1999/ELCRec and a Python that has what it imports (torch,
numpy, scipy, faiss-cpu, tqdm); nothing of it is kept here:

    python bench/published.py --published path/to/ELCRec --python path/to/its/bin/python

Both sides run in turn, each in a process of its own, on the same data, threads and machine; the
table gives medians and the ratio of each. An epoch is the full method, three losses on every user,
here by the preset `paper`: once on real events alone, and once with padding, which computes what
the published epoch does. The published k-means start is left out of its epoch, as it is of ours.
Full ranking is that of the validation split.

The way to the published quality: here all of a fit of the default preset, start and validation
too, with as few epochs as it takes to pass both HR@5 and NDCG@20 of the published test; there
nothing but epochs, as many as --published-epochs says. Which epoch its published weights are of is
not recorded; it trains 300 at most and stops 40 after the best.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("ELCREC_DATA") or REPO.parent / "shared" / "data")
DATASETS = {"beauty": "Beauty", "sports": "Sports_and_Outdoors"}
TO_PASS = ("HR@5", "NDCG@20")  # of the published test
MEASURES = {
    "epoch_s": "one epoch on real events, s",
    "padded_epoch_s": "one epoch with padding, s",
    "rank_s": "full ranking, s",
    "peak_mb": "peak memory, MB",
    "quality_s": "until the published quality is passed, s",
}


def ours(dataset: str, threads: int) -> dict[str, float]:
    """Time an epoch of the preset `paper` with padding and one without, then one validation."""
    import numpy as np
    import torch

    from elcrec import Config, ELCRec, Histories
    from elcrec.model import Network
    from elcrec.training import Trainer
    from tasks.chores.published_scores import read

    [published] = [
        data["scores"]["ELCRec"] for data in read()["data"] if data["name"].lower() == dataset
    ]
    torch.set_num_threads(threads)
    lines = (DATA / f"{DATASETS[dataset]}.txt").read_text().splitlines()
    histories = Histories.from_lists([np.array(line.split()[1:], int) for line in lines])
    measured: dict[str, float] = {}
    for name, pooling in (("padded_epoch_s", "padded_outputs"), ("epoch_s", "outputs")):
        config = Config.preset("paper", dataset, validation_users=10**9, pooling=pooling)
        trainer = Trainer(Network(config, int(histories.items.max())), histories, config)
        start = time.perf_counter()
        trainer.epoch(1)
        measured[name] = time.perf_counter() - start
    start = time.perf_counter()
    trainer.validate()
    measured |= {"rank_s": time.perf_counter() - start, "peak_mb": _peak_mb()}
    del trainer
    for epochs in range(2, 31):
        config = Config(n_intents=config.n_intents, max_epochs=epochs, threads=threads)
        start = time.perf_counter()
        model = ELCRec(config).fit(histories)
        measured |= {"quality_s": time.perf_counter() - start, "quality_epochs": epochs}
        test = model.evaluate(histories)
        if all(test[name] > published[name] for name in TO_PASS):
            return measured
    raise RuntimeError(f"30 epochs do not pass the published quality: {test}")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def theirs(checkout: Path, dataset: str, threads: int) -> dict[str, float]:
    """Time the same of the published code, set up by its own command line as its scripts do."""
    sys.path.insert(0, str(checkout / "src"))
    import torch

    torch.set_num_threads(threads)
    import trainers  # type: ignore[import-not-found]  # of the checkout

    measured = {}
    train = trainers.ELCRecTrainer.train
    rank = trainers.ELCRecTrainer.valid

    class Measured(Exception):  # noqa: N818  # ends the published program, is no error
        pass

    def timed_train(self: object, epoch: int) -> object:
        # Its k-means start runs in epoch 0 alone; without it the centres are unset memory.
        torch.nn.init.normal_(self.model.cluster_centers)  # type: ignore[attr-defined]
        start = time.perf_counter()
        losses = train(self, epoch + 1)
        measured["epoch_s"] = measured["padded_epoch_s"] = time.perf_counter() - start
        return losses

    def timed_rank(self: object, *arguments: object, **options: object) -> object:
        start = time.perf_counter()
        rank(self, *arguments, **options)
        measured["rank_s"] = time.perf_counter() - start
        raise Measured

    trainers.ELCRecTrainer.train, trainers.ELCRecTrainer.valid = timed_train, timed_rank
    layers = {"beauty": 1, "sports": 2}[dataset]
    sys.argv = ["main.py", "--no_cuda", "--data_dir", f"{DATA}/", "--output_dir", "/tmp/"]
    sys.argv += ["--data_name", DATASETS[dataset], "--contrast_type", "Hybrid"]
    sys.argv += ["--intent_cf_weight", "0.1", "--num_hidden_layers", str(layers)]
    try:
        import main as _  # noqa: F401  # its module runs the program
    except Measured:
        return measured
    raise RuntimeError("the published program ended without one epoch and one ranking")


def main() -> None:
    """Run both sides in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--published", type=Path, required=True, help="checkout of ELCRec")
    parser.add_argument("--python", default=sys.executable, help="interpreter for the checkout")
    parser.add_argument("--dataset", choices=DATASETS, default="beauty")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--published-epochs", type=int, default=41, help="to its quality")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--record", metavar="NAME", help="keep the figures, see bench/record.py")
    parser.add_argument("--side", choices=["ours", "theirs"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.side:
        if given.side == "ours":
            measured = ours(given.dataset, given.threads)
        else:
            measured = theirs(given.published, given.dataset, given.threads)
        print(json.dumps({"peak_mb": _peak_mb()} | measured))
        return

    runs: dict[str, list[dict[str, float]]] = {"ours": [], "theirs": []}
    for number in range(given.rounds):
        for side, python in (("ours", sys.executable), ("theirs", given.python)):
            command = [python, str(Path(__file__).resolve()), "--side", side]
            command += ["--published", str(given.published.resolve()), "--dataset", given.dataset]
            command += ["--threads", str(given.threads)]
            env = {**os.environ, "PYTHONPATH": str(REPO)} if side == "ours" else None
            done = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True)
            runs[side].append(json.loads(done.stdout.splitlines()[-1]))
            if side == "theirs":
                seconds = runs[side][-1]["epoch_s"] * given.published_epochs
                runs[side][-1]["quality_s"] = seconds
            print(f"round {number + 1} {side}: {runs[side][-1]}", file=sys.stderr)
    print(f"{given.dataset}, {given.threads} threads, medians of {given.rounds} rounds in turn\n")
    print("| | published | here | ratio |\n| --- | ---: | ---: | ---: |")
    rows = []
    for key, title in MEASURES.items():
        their, our = (statistics.median(run[key] for run in runs[s]) for s in ("theirs", "ours"))
        print(f"| {title} | {their:.1f} | {our:.1f} | {their / our:.1f} |")
        rows.append({"measure": title, "published": their, "here": our, "ratio": their / our})
    from bench.record import record  # not above: the published code's Python may not have it

    record(
        given.record,
        {"threads": given.threads, "rounds": given.rounds, "rows": rows},
    )


if __name__ == "__main__":
    main()
