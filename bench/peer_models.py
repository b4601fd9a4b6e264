"""The peers of bench/peers.py: each is a function that other people's packages do the work of.

    <python of the peers' environment> bench/peer_models.py als FOLDER

Runs in the environment of bench/peers.txt and imports nothing of this project. FOLDER holds

- `settings.json`: `seed`, for labels `k`, and what the peer may be told,
- `learn.npz`: `items` int32 `[N]`, `offsets` int64 `[n + 1]` and `n_items`, the histories to learn,
- `validation.npz` and `test.npz`, each only if it is asked for: `items` and `offsets` of histories
  for which items are asked, in `validation.npz` also the `targets`.

The peer writes `labels.npz`, or `items` and `scores` `[m, 100]` of each file that is asked for to
`recommended-validation.npz` and `recommended-test.npz`, the best first, and `report.json`: CPU
seconds of the learning, and what the peer chose itself. Items that a history has are left out.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

# A peer imports its package itself: all of them together take longer than some peers learn.

TOP = 100  # items that are recommended, more than any cutoff that is measured
BLOCK = 512  # histories that are scored at once; bounds the memory
WINDOW = 5  # events apart at most that count as together
DIM = 64
HDBSCAN_DIM = 16  # distances say little in more
VALIDATED = 5_000  # histories by which SASRec's epoch is chosen
LENGTHS, LONGEST = 0.9, 100  # SASRec reads so much of a history as this share of them has, at most
PATIENCE = 3  # epochs of SASRec without a better validation NDCG@20

Settings = dict[str, Any]


class Lists:
    """Histories as two flat arrays, oldest event first; items are numbered from 1."""

    def __init__(self, items: np.ndarray, offsets: np.ndarray, n_items: int) -> None:
        self.items, self.offsets, self.n_items = items, offsets, n_items
        self.lengths = np.diff(offsets)
        self.owners = np.repeat(np.arange(self.lengths.size), self.lengths)

    def __len__(self) -> int:
        return self.lengths.size

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(np.split(self.items, self.offsets[1:-1]))

    def first(self, count: int) -> Lists:
        """Return the first histories, so many at most."""
        offsets = self.offsets[: count + 1]
        return Lists(self.items[: offsets[-1]], offsets, self.n_items)

    def matrix(self) -> sparse.csr_matrix:
        """Count each item of each history, float32 `[n, n_items + 1]`."""
        shape = (len(self), self.n_items + 1)
        ones = np.ones(self.items.size, np.float32)
        return sparse.csr_matrix((ones, (self.owners, self.items)), shape)

    def means(self, vectors: np.ndarray) -> np.ndarray:
        """Return the mean of the item vectors of each history, zeros of an empty one."""
        counts = self.matrix()
        return (counts @ vectors) / np.maximum(self.lengths, 1)[:, None]


Answer = tuple[np.ndarray, np.ndarray]
Recommender = Callable[[Lists], Answer]


def best_of(score: Callable[[sparse.csr_matrix], np.ndarray]) -> Recommender:
    """Recommend by scores of all items, float `[b, n_items + 1]`, for the rows of a matrix."""

    def recommend(asked: Lists) -> Answer:
        matrix = asked.matrix()
        items = np.zeros((len(asked), TOP), np.int32)
        scores = np.full((len(asked), TOP), -np.inf, np.float32)
        for begin in range(0, len(asked), BLOCK):
            rows = matrix[begin : begin + BLOCK]
            found = np.array(score(rows), np.float32)
            found[:, 0] = -np.inf  # no item has number 0
            found[rows.nonzero()] = -np.inf
            top = min(TOP, found.shape[1])
            places = np.argpartition(-found, top - 1, axis=1)[:, :top]
            best = np.take_along_axis(found, places, 1)
            order = np.argsort(-best, axis=1, kind="stable")
            end = begin + rows.shape[0]
            scores[begin:end, :top] = np.take_along_axis(best, order, 1)
            items[begin:end, :top] = np.take_along_axis(places, order, 1)
        return np.where(np.isfinite(scores), items, 0), scores

    return recommend


def fitted_als(learn: Lists, settings: Settings) -> Any:
    """Fit `implicit`'s ALS; its other settings are its defaults."""
    from implicit.cpu.als import AlternatingLeastSquares

    model = AlternatingLeastSquares(
        factors=settings["factors"],
        regularization=settings["regularization"],
        alpha=settings["alpha"],
        num_threads=1,
        random_state=settings["seed"],
    )
    model.fit(learn.matrix(), show_progress=False)
    return model


def als(learn: Lists, settings: Settings, _: Path) -> Recommender:
    """Recommend by ALS; the factors of a user are solved from the history that is asked for."""
    model = fitted_als(learn, settings)

    def score(rows: sparse.csr_matrix) -> np.ndarray:
        return model.recalculate_user(np.arange(rows.shape[0]), rows) @ model.item_factors.T

    return best_of(score)


def item_to_item(learn: Lists, settings: Settings, _: Path) -> Recommender:
    """Recommend by the cosine of items, as `implicit` has it, summed over the history."""
    from implicit.nearest_neighbours import CosineRecommender

    model = CosineRecommender(K=settings["neighbours"], num_threads=1)
    model.fit(learn.matrix(), show_progress=False)
    return best_of(lambda rows: (rows @ model.similarity).toarray())


def ease(learn: Lists, settings: Settings, _: Path) -> Recommender:
    """Recommend by RecTools' EASE."""
    from rectools.models import EASEModel

    data = rectools_data(learn)
    model = EASEModel(regularization=settings["regularization"]).fit(data)
    known = data.item_id_map.external_ids.astype(int)

    def score(rows: sparse.csr_matrix) -> np.ndarray:
        every = np.zeros(rows.shape, np.float32)  # of an item that nobody had nothing is known
        every[:, known] = rows[:, known] @ model.weight
        return every

    return best_of(score)


def sasrec(learn: Lists, settings: Settings, folder: Path) -> Recommender:
    """Recommend by RecTools' SASRec with sampled softmax.

    Learns until the validation is no better for some epochs, or for `cpu_seconds`; for `epochs`
    where these are known. Writes the number of epochs, and how much of a history it reads, into the
    settings.
    """
    import torch
    from pytorch_lightning import seed_everything
    from rectools.models import SASRecModel

    torch.set_num_threads(1)
    seed_everything(settings["seed"], verbose=False)
    began = time.process_time()
    data = rectools_data(learn)
    enough = int(np.quantile(learn.lengths[learn.lengths > 0], LENGTHS, method="higher"))
    settings["max_length"] = min(enough, LONGEST)
    model = SASRecModel(
        n_factors=settings["factors"],
        n_heads=2,
        dropout_rate=settings["dropout"],
        session_max_len=settings["max_length"],
        loss="sampled_softmax",
        n_negatives=settings["negatives"],
        recommend_torch_device="cpu",
    )

    def recommend(asked: Lists) -> Answer:
        given = rectools_data(asked)
        found = model.recommend(given.user_id_map.external_ids, given, TOP, filter_viewed=True)
        items = np.zeros((len(asked), TOP), np.int32)
        scores = np.full((len(asked), TOP), -np.inf, np.float32)
        row, place = found["user_id"].to_numpy(int), found["rank"].to_numpy(int) - 1
        items[row, place] = found["item_id"].to_numpy(int)
        scores[row, place] = found["score"].to_numpy(np.float32)
        return items, scores

    def learn_an_epoch() -> None:
        model.fit_partial(data, min_epochs=1, max_epochs=1)

    if "epochs" in settings:
        for _ in range(settings["epochs"]):
            learn_an_epoch()
        return recommend

    asked, targets = asked_for(folder / "validation.npz", learn.n_items)
    assert targets is not None
    asked = asked.first(VALIDATED)
    best, kept, epoch = -1.0, {}, 0
    settings["epochs"] = 0
    while epoch - settings["epochs"] < PATIENCE:
        epoch += 1
        learn_an_epoch()
        worth = ndcg(recommend(asked)[0], targets[: len(asked)])
        spent = time.process_time() - began
        print(f"epoch {epoch}: NDCG@20 {worth:.4f}, {spent:.0f} s", file=sys.stderr, flush=True)
        if worth > best:
            best, settings["epochs"] = worth, epoch
            state = model.lightning_model.state_dict()
            kept = {name: tensor.clone() for name, tensor in state.items()}
        if spent > settings["cpu_seconds"]:
            settings["ended"] = "time"  # the validation might still have become better
            break
    model.lightning_model.load_state_dict(kept)
    return recommend


def ndcg(items: np.ndarray, targets: np.ndarray) -> float:
    """Return NDCG@20 of the lists."""
    hit = items[:, :20] == targets[:, None]
    return float((hit / np.log2(np.arange(20) + 2.0)).sum(1).mean())


def rectools_data(lists: Lists) -> Any:
    """Return histories as a data set of RecTools, with seconds that keep the order as times."""
    import pandas as pd
    from rectools.dataset import Dataset

    places = np.arange(lists.items.size) - lists.offsets[lists.owners]
    return Dataset.construct(
        pd.DataFrame(
            {
                "user_id": lists.owners,
                "item_id": lists.items,
                "weight": 1.0,
                "datetime": pd.to_datetime(places, unit="s"),
            }
        )
    )


def kmeans(points: np.ndarray, settings: Settings) -> np.ndarray:
    """Cluster users by scikit-learn's k-means with its defaults."""
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import normalize

    if settings["normalise"]:
        points = normalize(points)
    model = KMeans(settings["k"], random_state=settings["seed"])
    return model.fit_predict(np.ascontiguousarray(points, np.float32))


def als_kmeans(learn: Lists, settings: Settings) -> np.ndarray:
    """Label users by k-means on their ALS factors."""
    return kmeans(fitted_als(learn, settings).user_factors, settings)


def lda(learn: Lists, settings: Settings) -> np.ndarray:
    """Label users by the topic that LDA gives most of their history to."""
    from sklearn.decomposition import LatentDirichletAllocation

    model = LatentDirichletAllocation(
        settings["k"],
        learning_method="online",
        batch_size=256,
        max_iter=settings["passes"],
        random_state=settings["seed"],
    )
    return model.fit_transform(learn.matrix()).argmax(1)


def item2vec(learn: Lists, settings: Settings) -> np.ndarray:
    """Return the mean of the user's item vectors by gensim's skip-gram, `[n, 100]`."""
    from gensim.models import Word2Vec
    from sklearn.preprocessing import normalize

    sentences = [[str(item) for item in history] for history in learn]
    model = Word2Vec(
        sentences, sg=1, min_count=1, workers=1, epochs=settings["epochs"], seed=settings["seed"]
    )
    vectors = np.zeros((learn.n_items + 1, model.vector_size), np.float32)
    vectors[np.array(model.wv.index_to_key, int)] = model.wv.vectors
    return learn.means(normalize(vectors))


def item2vec_kmeans(learn: Lists, settings: Settings) -> np.ndarray:
    """Label users by k-means on the means of their item vectors."""
    return kmeans(item2vec(learn, settings), settings)


def item2vec_hdbscan(learn: Lists, settings: Settings) -> np.ndarray:
    """Label users by HDBSCAN on the means of their item vectors; noise has the label -1."""
    from sklearn.cluster import HDBSCAN
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import normalize

    points = PCA(HDBSCAN_DIM, random_state=settings["seed"]).fit_transform(
        normalize(item2vec(learn, settings))
    )
    return HDBSCAN(min_cluster_size=settings["least_users"], copy=True).fit_predict(points)


def ppmi_kmeans(learn: Lists, settings: Settings) -> np.ndarray:
    """Label users by k-means on the means of item vectors from the SVD of PPMI."""
    from scipy.sparse.linalg import svds

    width = learn.n_items + 1
    counts = sparse.csr_matrix((width, width))
    for apart in range(1, WINDOW + 1):
        same = learn.owners[:-apart] == learn.owners[apart:]
        pair = learn.items[:-apart][same], learn.items[apart:][same]
        counts += sparse.csr_matrix((np.ones(same.sum()), pair), counts.shape)
    counts = (counts + counts.T).tocoo()
    total = np.asarray(counts.sum(1)).ravel()
    information = np.log(counts.data * total.sum() / (total[counts.row] * total[counts.col]))
    positive = np.maximum(information, 0)
    matrix = sparse.csr_matrix((positive, (counts.row, counts.col)), counts.shape)
    left, strength, _ = svds(matrix, k=DIM, rng=np.random.default_rng(settings["seed"]))
    return kmeans(learn.means(left * np.sqrt(strength)), settings)


RECOMMENDERS = {"als": als, "item-to-item": item_to_item, "ease": ease, "sasrec": sasrec}
LABELLERS = {
    "als-kmeans": als_kmeans,
    "lda": lda,
    "item2vec-kmeans": item2vec_kmeans,
    "item2vec-hdbscan": item2vec_hdbscan,
    "ppmi-kmeans": ppmi_kmeans,
}


def asked_for(file: Path, n_items: int) -> tuple[Lists, np.ndarray | None]:
    """Read the histories of a file, and their targets where it has some."""
    with np.load(file, allow_pickle=False) as data:
        targets = data.get("targets")
        return Lists(data["items"], data["offsets"], n_items), targets


def main() -> None:
    """Let the peer learn, and write its answers."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    warnings.filterwarnings("ignore", module="pytorch_lightning|rectools|implicit")
    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    with np.load(folder / "learn.npz", allow_pickle=False) as data:
        learn = Lists(data["items"], data["offsets"], int(data["n_items"]))
    began = time.process_time()
    if name in LABELLERS:
        there = np.flatnonzero(learn.lengths)
        labels = np.full(len(learn), -1, np.int64)
        offsets = np.concatenate([[0], np.cumsum(learn.lengths[there])])
        labels[there] = LABELLERS[name](Lists(learn.items, offsets, learn.n_items), settings)
        seconds = time.process_time() - began
        np.savez(folder / "labels.npz", labels=labels)
    else:
        recommend = RECOMMENDERS[name](learn, settings, folder)
        seconds = time.process_time() - began
        for side in ("validation", "test"):
            if (file := folder / f"{side}.npz").exists():
                items, scores = recommend(asked_for(file, learn.n_items)[0])
                np.savez(folder / f"recommended-{side}.npz", items=items, scores=scores)
    report = {"seconds": seconds, "settings": settings}
    (folder / "report.json").write_text(json.dumps(report), "utf-8")


if __name__ == "__main__":
    main()
