"""ELCRec as one object: fit, transform to labels, recommend, evaluate, save, load."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from elcrec import checkpoint
from elcrec.calibration import Calibration, Foreseen
from elcrec.config import Config
from elcrec.devices import device_of
from elcrec.distributed import ALONE, Ranks, leading, threads_of_each
from elcrec.errors import ELCRecError
from elcrec.evaluation import (
    BLOCK_USERS,
    behaviours,
    events_to_label,
    hit_rate_and_ndcg,
    in_callers_order,
    newest_outputs,
    target_ranks,
)
from elcrec.evidence import MOST, strongest_items
from elcrec.histories import Histories, Split, leave_one_out
from elcrec.intents import Labels, group_centers, spherical_kmeans, unfitted_groups
from elcrec.model import Network
from elcrec.training import EpochReport, Trainer, batch_size, out_of_memory

log = logging.getLogger(__name__)

SAVED = "model"
RESUMABLE = "training"
# k-means on more users than this many an intent moves the starting centres no further.
KMEANS_USERS_PER_INTENT = 256
KMEANS_STARTS = 5
CALIBRATION_USERS = 10_000  # a share of so many is known to within half a percent
# Fields of the config that may change between a kill and the fit that goes on from there.
WHERE_IT_RUNS = ("device", "threads")


class ELCRec:
    """End-to-end learnable clustering for intent learning in recommendation (arXiv 2401.05975).

    Items are integers 1 … n_items; histories are `Histories`, oldest event first.
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.network: Network | None = None
        self.n_items = 0
        self.calibration: Calibration | None = None
        self.history: list[EpochReport] = []

    def fit(
        self,
        histories: Histories,
        n_items: int | None = None,
        *,
        initial: ELCRec | None = None,
        groups: NDArray[np.integer] | None = None,
        held_out: NDArray[np.bool_] | None = None,
        keep_last: bool = False,
        checkpoint_dir: Path | None = None,
        on_epoch: Callable[[EpochReport], None] | None = None,
        rendezvous: str | None = None,
    ) -> ELCRec:
        """Learn encoder and intents together; the newest two events of histories are held out.

        The epoch with the best NDCG@20 on `s_{T−1}` is kept. Histories of fewer than three events
        teach nothing here and are left out.

        n_items: V, by default the largest item number seen.
        initial: a fitted model to start from; its items keep their numbers, larger ones are new.
        groups: int `[n]`, the intent each user is known to have, −1 for none: intent j starts at
            what the users of group j have in common, in place of k-means; not with `initial`.
        held_out: bool `[n]`, whose newest two events are held out; of the others every event is
            learned from. None: everybody's. Judge the model by those who are held out alone.
        keep_last: keep the last epoch, not the best one, and let `patience` end nothing: for a
            number of epochs that was chosen elsewhere.
        checkpoint_dir: where every epoch's state goes; a fit that finds one there goes on from it
            and, on a CPU, ends with the same weights as one that was never stopped.
        on_epoch: called after every epoch.
        rendezvous: `host:port`, where to wait for the other processes of a config that asks for
            several, which are started on other machines (`python -m elcrec.worker`). None starts
            them on this machine.
        With too little memory for a batch, training goes on from the checkpoint, or starts again,
        with batches that are cut into twice as many parts.
        Raises ELCRecError for items beyond n_items, too few users for the intents, a loss that is
        not finite, too little memory for one history at a time, a checkpoint of another config,
        other histories, another start (`initial`, `groups`), or other users held out, or a process
        that has ended before the training did.
        """
        config = self.config
        contrasts = config.sequence_contrast_weight or config.intent_contrast_weight
        if config.processes > 1 and contrasts:
            raise ELCRecError(
                "the contrasts compare all users of a batch, so they need one process: set "
                "processes to 1, or the weights of both contrasts to 0"
            )
        n_items = n_items or int(histories.items.max(initial=0))
        self._check_items(histories, n_items)
        long_enough = np.flatnonzero(histories.lengths >= 3)
        usable = histories.take(long_enough)
        if groups is not None:
            groups = groups[long_enough]
        if held_out is not None:
            held_out = held_out[long_enough]
        if len(usable) < config.n_intents:
            raise ELCRecError(
                f"{config.n_intents} intents need at least as many users with 3 events, "
                f"there are {len(usable)}: "
                "lower n_intents"
            )
        passes = 1
        while True:
            try:
                self._use_threads(None if rendezvous else config.processes)
                on_gpu = self._device().type == "cuda"
                with leading(config.processes, rendezvous, config.threads, on_gpu) as ranks:
                    self._train(
                        usable,
                        n_items,
                        passes,
                        initial,
                        groups,
                        held_out,
                        keep_last,
                        checkpoint_dir,
                        on_epoch,
                        ranks,
                    )
                return self
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                if rendezvous:
                    raise ELCRecError(
                        "there is too little memory to train: lower batch_users, or train where "
                        "there is more"
                    ) from None
            # Out here nothing refers any more to what was in memory when it was full.
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            size = batch_size(config, self._device())
            if passes >= size:
                raise ELCRecError(
                    f"there is too little memory to train with {len(usable)} users and {n_items} "
                    "items even on one history at a time: lower dim or max_length, or train where "
                    "there is more"
                )
            passes *= 2
            log.warning(
                "there is too little memory for a batch of %d histories: training goes on with %d "
                "at a time",
                size,
                -(-size // passes),
            )

    def _train(
        self,
        usable: Histories,
        n_items: int,
        passes: int,
        initial: ELCRec | None,
        groups: NDArray[np.integer] | None,
        held_out: NDArray[np.bool_] | None,
        keep_last: bool,
        checkpoint_dir: Path | None,
        on_epoch: Callable[[EpochReport], None] | None,
        ranks: Ranks = ALONE,
    ) -> None:
        config = self.config
        torch.manual_seed(config.seed)
        network = Network(config, n_items).to(self._device())
        if initial is not None:
            _copy_overlap(initial._fitted(), network)
        # A model to start from has its intents already.
        warmup = 0 if initial is not None else min(config.warmup_epochs, config.max_epochs)
        task = {
            "config": config.to_dict() | {"device": self._device().type},
            "n_items": n_items,
            "warmup_epochs": warmup,
            "passes": passes,
        }
        ranks.announce("train", **task)
        trainer = Trainer(network, usable, config, warmup, passes, held_out, ranks)
        best = _Best()
        first_epoch = 1
        facts: dict[str, Any] = {
            "config": what_it_learns_by(config),
            "n_items": n_items,
            "histories": _digest(usable),
            "initial": _start_digest(initial),
            "groups": None if groups is None else _bytes_digest(groups.astype(np.int64)),
            "held_out": None if held_out is None else _bytes_digest(held_out),
            "keep_last": keep_last or None,  # None, as in checkpoints from before it was known
        }
        self.history = []
        if checkpoint_dir is not None and (checkpoint_dir / f"{RESUMABLE}.json").exists():
            tensors, found = checkpoint.read(checkpoint_dir, RESUMABLE)
            # A field that came after the checkpoint has the default, which leaves all as it was.
            found["config"] = what_it_learns_by(Config()) | found["config"]
            for name, value in facts.items():
                if found.get(name) != value:
                    raise ELCRecError(
                        f"the checkpoint in {checkpoint_dir} has another {name}; "
                        "remove it to train from the start"
                    )
            trainer.restore(tensors)
            best_state = checkpoint.under(tensors, "best.")
            best.offer(found["best_epoch"], found["best_score"], best_state)
            self.history = [EpochReport(**report) for report in found["reports"]]
            trainer.passes = max(passes, found.get("passes", 1))
            first_epoch = found["epoch"] + 1
            log.info("training goes on after epoch %d, from its checkpoint", found["epoch"])
        elif initial is None and warmup == 0:
            self._initialise_centers(network, trainer, groups)
        trainer.share()

        for number in range(first_epoch, config.max_epochs + 1):
            if number - 1 - max(best.epoch, warmup) >= config.patience:
                break
            started = time.perf_counter()
            epoch_losses = trainer.epoch(number)
            if number == warmup:
                self._initialise_centers(network, trainer, groups)
            metrics, state = trainer.validate()
            if number >= warmup:
                best.offer(number, number if keep_last else metrics["NDCG@20"], state)
            seconds = time.perf_counter() - started
            epochs_left = min(config.max_epochs - number, config.patience - (number - best.epoch))
            report = EpochReport(
                number,
                config.max_epochs,
                epoch_losses,
                metrics,
                best.epoch,
                seconds,
                seconds * epochs_left,
            )
            self.history.append(report)
            if checkpoint_dir is not None:
                best_tensors = {f"best.{name}": tensor for name, tensor in best.state.items()}
                progress = {
                    "epoch": number,
                    "passes": trainer.passes,
                    "best_epoch": best.epoch,
                    "best_score": best.score,
                    "reports": [vars(r) for r in self.history],
                }
                checkpoint.write(
                    checkpoint_dir, RESUMABLE, trainer.state() | best_tensors, facts | progress
                )
            if on_epoch is not None:
                on_epoch(report)
        ranks.announce("trained")
        network.load_state_dict(best.state)
        self.network, self.n_items = network.eval(), n_items

    @torch.no_grad()
    def open_intents(self, histories: Histories, least_users: int) -> int:
        """Add an intent for each group of users that fits none: how many were added.

        histories: of the users who count, as far as it counts.
        least_users: that a group needs.
        """
        network = self._fitted()
        known = _without_items_beyond(histories, self.n_items)
        known = known.take(np.flatnonzero(known.lengths))
        if len(known) < least_users:
            return 0
        chosen, h = self._sampled_behaviours(network, known)
        least = max(1, least_users * chosen.size // len(known))
        added = unfitted_groups(h, network.centers, least, self.config.seed)
        if len(added):
            k = self.config.n_intents
            state = network.state_dict()
            shares = state["shares"]
            state["centers"] = torch.cat([state["centers"], added])
            state["shares"] = torch.cat([shares, shares.new_full((len(added),), 1 / k)])
            self.config = replace(self.config, n_intents=k + len(added))
            wider = Network(self.config, self.n_items).to(shares.device)
            wider.load_state_dict(state)
            self.network = wider.eval()
        return len(added)

    def calibrate(self, histories: Histories) -> Calibration:
        """Fit the confidence of labels to how often they outlive a user's newest event.

        It is fitted to every second user, at most CALIBRATION_USERS, so that the others can measure
        it (`foreseen`). No event that `fit` learned from may be asked for: give the histories of
        those who are held out. Fit, `open_intents` and whatever else changes the network come
        first.
        """
        self.calibration = Calibration.fit(*self._next_labels(histories, first=0))
        return self.calibration

    def foreseen(self, histories: Histories) -> Foreseen:
        """What was foreseen of labels, and whether it came true, for users not calibrated on.

        Raises ELCRecError for a model that is not calibrated.
        """
        if self.calibration is None:
            raise ELCRecError("the model is not calibrated yet: call calibrate")
        probabilities, after = self._next_labels(histories, first=1)
        chances = self.calibration(torch.from_numpy(probabilities)).numpy()
        users, now = np.arange(after.size), probabilities.argmax(1)
        return Foreseen(probabilities[users, now], chances[users, now], after == now)

    @torch.no_grad()
    def _next_labels(
        self, histories: Histories, first: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The softmax `[n, k]` before the newest event and the label `[n]` after it.

        Of every second user from the place `first` on whose histories have two known items or more.
        """
        network = self._fitted()
        known = _without_items_beyond(histories, self.n_items)
        users = np.flatnonzero(known.lengths >= 2)[first::2]
        if users.size > CALIBRATION_USERS:
            users = users[np.linspace(0, users.size - 1, CALIBRATION_USERS).astype(np.int64)]
        now = np.empty((users.size, network.config.n_intents), np.float32)
        after = np.empty(users.size, np.int64)
        for begin in range(0, users.size, BLOCK_USERS):
            block = known.take(users[begin : begin + BLOCK_USERS])
            end = begin + len(block)
            sides = (behaviours(network, side) for side in (block.drop_last(1), block))
            before, with_newest = map(network.intent_probabilities, sides)
            now[begin:end] = before.cpu().numpy()
            after[begin:end] = with_newest.argmax(1).cpu().numpy()
        return now, after

    @torch.no_grad()
    def transform(
        self,
        histories: Histories,
        previous: NDArray[np.integer] | None = None,
        ratio: float | NDArray[np.floating] = 1.0,
        ratio_cap: NDArray[np.floating] | None = None,
        *,
        evidence: bool = False,
    ) -> Labels:
        """The intent of every user, how sure it is, and the runner-up.

        A user with one known item gets a label; one without any gets −1 and NaN. Items beyond
        n_items, which the model has not learned, are left out.

        previous: int `[n]`, the intent that each user had before, −1 for none. The user keeps it
            until another intent is more than `ratio` times as probable. Until then the other one
            is the runner-up, although it is more probable.
        ratio: one number for all users or `[n]`, at least 1. With infinity the intent never
            changes.
        ratio_cap: `[k]`, at least 1: to change to intent j never takes more than `ratio_cap[j]`.
        evidence: whether to say why, too, which takes a little longer (`elcrec.evidence`).
        Raises ELCRecError for a ratio below 1.
        """
        ratio = np.broadcast_to(np.asarray(ratio, np.float32), len(histories))
        for asked in (ratio, np.ones(1) if ratio_cap is None else ratio_cap):
            if not (asked >= 1).all():  # so that NaN fails
                raise ELCRecError(
                    f"a ratio of probabilities must be at least 1, not {asked[~(asked >= 1)][0]:g}"
                )
        network = self._fitted()
        parts = []
        for first in range(0, max(len(histories), 1), BLOCK_USERS):
            block = histories.slice(first, min(first + BLOCK_USERS, len(histories)))
            block = _without_items_beyond(block, self.n_items)
            held = None if previous is None else previous[first : first + len(block)]
            enough = ratio[first : first + len(block)]
            parts.append(
                _labels(network, self.calibration, block, held, enough, ratio_cap, evidence)
            )
        return Labels.joined(parts)

    @torch.no_grad()
    def recommend(
        self, histories: Histories, k: int = 20, exclude_seen: bool = True
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k best next items of every user and their scores, `[n, k]` each, best first.

        The score of item v is `o · e_v`: the encoder's output at the newest event times the vector
        of the item, the logit of v as the next item. Of equal scores the lower item comes first.

        A user without a known item gets item 0 with score NaN, and so does everybody in the places
        for which nothing is left that the user has not had.
        """
        network = self._fitted()
        if not 1 <= k <= self.n_items:
            raise ELCRecError(f"k must be from 1 to the number of items ({self.n_items}), not {k}")
        items = np.zeros((len(histories), k), np.int32)
        scores = np.full((len(histories), k), np.nan, np.float32)
        block = max(1, min(BLOCK_USERS, 16_000_000 // self.n_items))
        for first in range(0, len(histories), block):
            part = _without_items_beyond(
                histories.slice(first, min(first + block, len(histories))), self.n_items
            )
            users = np.flatnonzero(part.lengths)
            if not users.size:
                continue
            known = part.take(users)
            logits = newest_outputs(network, known) @ network.items.weight[1:].T  # [b, V]
            if exclude_seen:
                rows = np.repeat(np.arange(users.size), known.lengths)
                logits[
                    torch.from_numpy(rows), torch.from_numpy(known.items.astype(np.int64) - 1)
                ] = -torch.inf
            best, places = _largest(logits, k)
            there = (best > -torch.inf).cpu().numpy()
            items[first + users] = np.where(there, (places + 1).cpu().numpy(), 0)
            scores[first + users] = np.where(there, best.cpu().numpy(), np.nan)
        return items, scores

    @torch.no_grad()
    def center_items(
        self, k: int = 20, among: NDArray[np.integer] | None = None
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The k items that fit each intent best and their scores, `[n_intents, k]`, best first.

        The score of item v for intent j is `c_j · e_v`: what the centre adds to the score of v as
        the next item of its users. among: item numbers, 1 … V, the only ones that are looked at.
        Raises ELCRecError for k beyond how many there are.
        """
        network = self._fitted()
        items, vectors = np.arange(1, self.n_items + 1), network.items.weight[1:]
        if among is not None:
            items = np.asarray(among, np.int64)
            vectors = vectors[torch.from_numpy(items - 1).to(vectors.device)]
        if not 1 <= k <= items.size:
            raise ELCRecError(f"k must be from 1 to the number of items ({items.size}), not {k}")
        block = max(1, 16_000_000 // items.size)
        parts = [
            (network.centers[first : first + block] @ vectors.T).topk(k, dim=1)
            for first in range(0, len(network.centers), block)
        ]
        places = torch.cat([part.indices for part in parts]).cpu().numpy()
        scores = torch.cat([part.values for part in parts])
        return items[places].astype(np.int32), scores.cpu().numpy()

    def evaluate(
        self, histories: Histories, split: str = "test", cutoffs: Iterable[int] = (5, 10, 20)
    ) -> dict[str, float]:
        """HR@K and NDCG@K by leave-one-out with full ranking.

        Histories of fewer than 3 events are left out. Items beyond n_items are left out of
        histories; as a target such an item is a miss.
        """
        usable = histories.take(np.flatnonzero(histories.lengths >= 3))
        return hit_rate_and_ndcg(self.ranks(leave_one_out(usable, split)), cutoffs)

    def ranks(self, side: Split, among_all: NDArray[np.bool_] | None = None) -> NDArray[np.int64]:
        """Rank of every target among the items that the user has not had, int64 `[n]`, 0 is first.

        among_all: bool `[n]`, users whose target is ranked among all items instead, as fits a
        target that they have had (`elcrec.evaluation.is_repeat`).
        Items beyond n_items are left out of histories; a target beyond, and that of a user without
        a known item, ranks last (n_items).
        """
        network = self._fitted()
        seen = _without_items_beyond(side.histories, self.n_items)
        rankable = np.flatnonzero((side.targets <= self.n_items) & (seen.lengths > 0))
        ranks = np.full(len(seen), self.n_items, np.int64)
        ranks[rankable] = target_ranks(
            network,
            Split(seen.take(rankable), side.targets[rankable]),
            among_all=None if among_all is None else among_all[rankable],
        )
        return ranks

    def save(self, folder: Path | str) -> None:
        """Write weights (safetensors) and facts (JSON) into `folder`."""
        facts = {
            "config": self.config.to_dict(),
            "n_items": self.n_items,
            "epoch": len(self.history),
            "calibration": self.calibration and self.calibration.to_dict(),
        }
        checkpoint.write(Path(folder), SAVED, self._fitted().state_dict(), facts)

    @classmethod
    def load(cls, folder: Path | str, device: str | None = None) -> ELCRec:
        """A model that `save` wrote; `device` overrides the one it was trained for."""
        tensors, facts = checkpoint.read(Path(folder), SAVED)
        config = Config.from_dict(facts["config"] | ({"device": device} if device else {}))
        model = cls(config)
        model.n_items = facts["n_items"]
        network = Network(config, model.n_items)
        expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        found = {name: tuple(value.shape) for name, value in tensors.items()}
        if expected != found:
            name = sorted(expected.items() ^ found.items())[0][0]
            raise ELCRecError(
                f"{folder}: {name} has shape {found.get(name)}, "
                f"the config asks for {expected.get(name)}"
            )
        network.load_state_dict(tensors)
        model.network = network.to(model._device()).eval()
        if facts.get("calibration"):  # a model of before has none
            model.calibration = Calibration.from_dict(facts["calibration"])
        return model

    def _fitted(self) -> Network:
        if self.network is None:
            raise ELCRecError("the model is not fitted yet: call fit or load")
        return self.network

    def _device(self) -> torch.device:
        return device_of(self.config.device)

    def _use_threads(self, processes: int | None) -> None:
        """processes: how many share the cores of this machine, None where that is not known."""
        if self.config.threads:
            torch.set_num_threads(self.config.threads)
        elif processes is not None and processes > 1:
            torch.set_num_threads(threads_of_each(processes))

    def _check_items(self, histories: Histories, n_items: int) -> None:
        largest = int(histories.items.max(initial=0))
        if largest > n_items:
            raise ELCRecError(f"a history holds item {largest}, but n_items is {n_items}")

    @torch.no_grad()
    def _initialise_centers(
        self, network: Network, trainer: Trainer, groups: NDArray[np.integer] | None
    ) -> None:
        """Place the centres by known groups, or by k-means on the behaviours as they are.

        The paper does so on the untrained network. Training hardly ever parts two groups of users
        that start at one centre; after a warm-up epoch, and as the best of several starts, k-means
        seldom puts them there.
        """
        if self.config.intent_loss == "none":
            return
        network.eval()
        chosen, h = self._sampled_behaviours(network, trainer.all_known)
        k, seed = self.config.n_intents, self.config.seed
        if groups is None:
            centers, _ = spherical_kmeans(h, k, seed=seed, starts=KMEANS_STARTS)
        else:
            centers = group_centers(h, groups[chosen], k, seed=seed)
        trainer.place_centers(centers)

    def _sampled_behaviours(
        self, network: Network, known: Histories
    ) -> tuple[NDArray[np.int64], Tensor]:
        """Which users, and their behaviours `[m, d]`: all, or as many as tell all intents apart."""
        chosen = np.arange(len(known))
        limit = KMEANS_USERS_PER_INTENT * self.config.n_intents
        if chosen.size > limit:
            rng = np.random.default_rng(self.config.seed)
            chosen = np.sort(rng.choice(chosen, limit, replace=False))
            known = known.take(chosen)
        blocks = (
            known.slice(i, min(i + BLOCK_USERS, len(known)))
            for i in range(0, len(known), BLOCK_USERS)
        )
        return chosen, torch.cat([behaviours(network, block) for block in blocks])


@dataclass
class _Best:
    """The best epoch so far and its weights."""

    epoch: int = 0
    score: float = -1.0
    state: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, epoch: int, score: float, state: dict[str, Tensor]) -> None:
        if score > self.score:
            self.epoch, self.score, self.state = (
                epoch,
                score,
                {k: v.clone() for k, v in state.items()},
            )


def _copy_overlap(source: Network, target: Network) -> None:
    """Start `target` from `source`: all weights, and of the items those that both know."""
    with torch.no_grad():
        own = target.state_dict()
        for name, value in source.state_dict().items():
            if name == "items.weight":
                rows = min(value.shape[0], own[name].shape[0])
                own[name][:rows].copy_(value[:rows])
            elif own.get(name) is None or own[name].shape != value.shape:
                shape = tuple(own[name].shape) if name in own else None
                raise ELCRecError(
                    f"cannot start from a model whose {name} has shape {tuple(value.shape)}; "
                    f"this config asks for {shape}"
                )
            else:
                own[name].copy_(value)


def _digest(histories: Histories) -> str:
    digest = hashlib.sha256(histories.offsets.tobytes())
    for values in (histories.items, histories.types, histories.weights, histories.ts_us):
        if values is not None:
            digest.update(np.ascontiguousarray(values).tobytes())
    digest.update("\n".join(histories.type_names).encode())
    return digest.hexdigest()


def what_it_learns_by(config: Config) -> dict[str, Any]:
    """The fields of a config, as JSON has them, but those that say only where a fit runs."""
    return {k: v for k, v in config.to_dict().items() if k not in WHERE_IT_RUNS}


def _start_digest(initial: ELCRec | None) -> str | None:
    """Hash the weights of a model to start from."""
    if initial is None:
        return None
    digest = hashlib.sha256()
    for name, tensor in sorted(initial._fitted().state_dict().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.cpu().numpy()).tobytes())
    return digest.hexdigest()


def _bytes_digest(values: NDArray[np.generic]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row of `[n, V]` and their places, `[n, k]` each, the largest first.

    Of equal ones the first comes first, also where only some of them are among the k.
    """
    best = values.topk(min(k + 1, values.shape[1]), dim=1)
    largest, places = best.values[:, :k], best.indices[:, :k]
    if values.shape[1] > k:
        # Where equal ones are on both sides of the cut, topk takes any of them.
        cut = torch.nonzero(best.values[:, k - 1] == best.values[:, k]).squeeze(1)
        if cut.numel():
            ordered = values[cut].sort(dim=1, descending=True, stable=True)
            largest[cut], places[cut] = ordered.values[:, :k], ordered.indices[:, :k]
    places, order = places.sort(dim=1)
    largest, order = largest.gather(1, order).sort(dim=1, descending=True, stable=True)
    return largest, places.gather(1, order)


def _without_items_beyond(histories: Histories, n_items: int) -> Histories:
    if not histories.items.size or histories.items.max() <= n_items:
        return histories
    keep = histories.items <= n_items
    owners = np.repeat(np.arange(len(histories)), histories.lengths)
    lengths = np.bincount(owners[keep], minlength=len(histories))
    return histories.events(keep, np.concatenate([[0], np.cumsum(lengths)]))


def _labels(
    network: Network,
    calibration: Calibration | None,
    histories: Histories,
    previous: NDArray[np.integer] | None,
    ratio: NDArray[np.float32],
    ratio_cap: NDArray[np.floating] | None,
    evidence: bool,
) -> Labels:
    """The labels of one block of users."""
    labels = Labels.none(len(histories), evidence=evidence)
    intent, confidence = labels.intent, labels.confidence
    runner_up, runner_up_confidence = labels.runner_up, labels.runner_up_confidence
    users = np.flatnonzero(histories.lengths)
    if not users.size:
        return labels
    batch = events_to_label(network, histories.take(users))
    h, rows = network.label_behaviours(batch)
    probabilities = network.intent_probabilities(in_callers_order(batch, h))  # [b, k]
    top = probabilities.topk(min(MOST, probabilities.shape[1]), dim=1)
    values, indices = top.values.cpu().numpy(), top.indices.cpu().numpy()
    intent[users], confidence[users] = indices[:, 0], values[:, 0]
    if indices.shape[1] > 1:
        runner_up[users], runner_up_confidence[users] = indices[:, 1], values[:, 1]
    if previous is not None:
        before = torch.from_numpy(previous[users].astype(np.int64)).to(probabilities.device)
        sure = probabilities.gather(1, before.clamp(min=0)[:, None]).squeeze(1).cpu().numpy()
        other = (previous[users] >= 0) & (previous[users] != intent[users])
        enough = ratio[users]
        if ratio_cap is not None:
            enough = np.minimum(enough, ratio_cap[intent[users]])
        # Division, not multiplication: infinity times a probability of 0 is no number.
        held = users[other & (confidence[users] / enough <= sure)]
        runner_up[held], runner_up_confidence[held] = intent[held], confidence[held]
        intent[held] = previous[held]
        confidence[held] = sure[np.searchsorted(users, held)]
    if labels.evidence is not None:
        why = labels.evidence
        why.intents[users, : indices.shape[1]] = indices
        if calibration is not None:
            chances = calibration(probabilities)
            of_labels = torch.from_numpy(intent[users].astype(np.int64)).to(chances.device)
            why.confidence[users] = chances.gather(1, of_labels[:, None]).squeeze(1).cpu().numpy()
            why.probabilities[users, : indices.shape[1]] = chances.gather(1, top.indices).cpu()
        of_sequences = torch.from_numpy(intent[users][batch.order].astype(np.int64))
        added = network.added_to_score(batch, rows, of_sequences.to(rows.device)).cpu().numpy()
        owners, items = batch.order[batch.owners.cpu().numpy()], batch.items.cpu().numpy()
        why.items[users], why.shares[users] = strongest_items(owners, items, added, users.size)
    return labels
