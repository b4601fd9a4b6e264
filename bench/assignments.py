"""Ways to learn intents in mini-batches, side by side: a table of docs/model.md.

    python bench/assignments.py                      # all, on Beauty
    python bench/assignments.py --only attraction sinkhorn --epochs 4

Each trains the default preset with its own clustering loss in the place of loss 2: same encoder,
weight, k, seed and start of the centres. The figures are those of bench/quality.py: labels are
made from all but the newest two events of a history.
"""

from __future__ import annotations

import argparse
import os
import time
from unittest.mock import patch

import torch
import torch.nn.functional as F
from quality import FILES, INTENTS, kmeans_labels, label_figures, read_histories, say
from torch import Tensor

from bench.record import add_option, record
from elcrec import Config, ELCRec, losses
from elcrec.training import Trainer

QUEUE, EPSILON, SINKHORN_TEMPERATURE = 2_048, 0.05, 0.1  # of Sinkhorn's targets
TEACHER_DECAY, TEACHER_TEMPERATURE = 0.996, 0.04  # of the momentum targets
ENTROPY_MEMORY = 0.1  # how much of the running mean assignment a batch replaces


class HardAttraction(Trainer):
    """Each behaviour to the one centre nearest to it."""

    def clustering(self, behaviours: Tensor) -> Tensor:
        """Return one minus the cosine to the nearest centre."""
        h, c = F.normalize(behaviours, dim=-1), F.normalize(self.network.centers, dim=-1)
        return 1 - (h @ c.T).amax(1).mean()


class SoftEntropy(Trainer):
    """Each behaviour to all centres by its soft assignment, whose mean is to be uniform."""

    def clustering(self, behaviours: Tensor) -> Tensor:
        """Return the expected distance minus the entropy of the mean assignment of lately."""
        temperature, shares = self.config.intent_temperature, self.network.shares
        scores = losses.intent_scores(behaviours, self.network.centers, temperature)
        soft = scores.softmax(1)
        mean = shares.lerp(soft.mean(0), ENTROPY_MEMORY)
        shares.copy_(mean.detach())
        distance = (soft * (1 - scores * temperature)).sum(1).mean()
        entropy = -(mean * mean.clamp(min=1e-9).log()).sum()
        return distance - temperature * entropy / ENTROPY_MEMORY


class Sinkhorn(Trainer):
    """Cross-entropy to assignments that Sinkhorn-Knopp has made equally large (SwAV's way)."""

    queue: Tensor | None = None

    def clustering(self, behaviours: Tensor) -> Tensor:
        """Balance targets over the batch and a queue of behaviours before it."""
        h = F.normalize(behaviours.detach(), dim=-1)
        self.queue = h if self.queue is None else torch.cat([h, self.queue])[:QUEUE]
        cosines = self.queue @ F.normalize(self.network.centers.detach(), dim=-1).T
        plan = (cosines / EPSILON).exp()
        for _ in range(3):
            plan = plan / plan.sum(0, keepdim=True) / plan.shape[1]
            plan = plan / plan.sum(1, keepdim=True) / plan.shape[0]
        targets = (plan * plan.shape[0])[: h.shape[0]]
        scores = losses.intent_scores(behaviours, self.network.centers, SINKHORN_TEMPERATURE)
        return F.cross_entropy(scores, targets)


class MomentumTargets(Trainer):
    """Cross-entropy to the sharper assignments to centres that follow slowly (DINO's way)."""

    teacher: Tensor | None = None
    mean_score: Tensor | None = None

    def clustering(self, behaviours: Tensor) -> Tensor:
        """Take the mean score of lately off the targets', so that no intent takes all."""
        centers = self.network.centers
        if self.teacher is None or self.mean_score is None:
            self.teacher = centers.detach().clone()
            self.mean_score = centers.new_zeros(centers.shape[0])
        self.teacher.lerp_(centers.detach(), 1 - TEACHER_DECAY)
        own = losses.intent_scores(behaviours.detach(), self.teacher, TEACHER_TEMPERATURE)
        targets = (own - self.mean_score).softmax(1)
        self.mean_score.lerp_(own.mean(0), 0.1)
        scores = losses.intent_scores(behaviours, centers, SINKHORN_TEMPERATURE)
        return F.cross_entropy(scores, targets)


WAYS: dict[str, tuple[str, type[Trainer], dict[str, object]]] = {
    "attraction": ("soft attraction, balanced by running shares (default)", Trainer, {}),
    "unbalanced": ("soft attraction, not balanced", Trainer, {"intent_balance": 0.0}),
    "hard": ("attraction to the nearest centre", HardAttraction, {}),
    "entropy": ("soft distance, entropy of the mean assignment", SoftEntropy, {}),
    "sinkhorn": ("Sinkhorn-Knopp targets, queue of 2,048", Sinkhorn, {}),
    "momentum": ("momentum centres' targets, centred and sharpened", MomentumTargets, {}),
    "elcm": ("ELCM, the paper's loss 2", Trainer, {"intent_loss": "elcm"}),
    "none": ("none: k-means' start, one epoch in", Trainer, {"intent_loss_weight": 0.0}),
}


def main() -> None:
    """Train once a way and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=FILES, default="beauty")
    parser.add_argument("--only", choices=WAYS, nargs="+", default=list(WAYS))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    add_option(parser)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    histories, n_items = read_histories(given.dataset)
    known, intents = histories.drop_last(2), INTENTS[given.dataset]
    columns = "HR@5 | NDCG@20 | lift@20 | k-means lift@20 | utilisation | largest | confidence"
    print(f"| way | {columns} | minutes |\n| --- " + "| ---: " * 8 + "|")
    ways = []
    for name in given.only:
        title, trainer, changes = WAYS[name]
        config = Config(
            n_intents=intents, max_epochs=given.epochs, seed=given.seed, threads=given.threads
        )
        config = Config.from_dict(config.to_dict() | changes)
        start = time.perf_counter()
        with patch("elcrec.estimator.Trainer", trainer):
            model = ELCRec(config).fit(histories, n_items, on_epoch=say)
        minutes = (time.perf_counter() - start) / 60
        test, labels = model.evaluate(histories), model.transform(known)
        lift, used, largest = label_figures(labels.intent, histories, n_items, intents)
        other, *_ = label_figures(
            kmeans_labels(model, known, given.seed), histories, n_items, intents
        )
        row = [f"{test['HR@5']:.4f}", f"{test['NDCG@20']:.4f}", f"{lift:.2f}", f"{other:.2f}"]
        row += [f"{used:.2f}", f"{largest:.3f}", f"{labels.confidence.mean():.2f}"]
        print(f"| {title} | {' | '.join(row)} | {minutes:.1f} |", flush=True)
        ways.append(
            {
                "way": title,
                "HR@5": test["HR@5"],
                "NDCG@20": test["NDCG@20"],
                "lift@20": lift,
                "kmeans_lift@20": other,
                "utilisation": used,
                "largest_share": largest,
                "confidence": float(labels.confidence.mean()),
                "minutes": minutes,
            }
        )
    record(given.record, {"ways": ways})


if __name__ == "__main__":
    main()
