"""Weights of the published implementation (github.com/yueliu1999/ELCRec) in this library's network.

model = load_published("ELCRec-Beauty-1.pt", "beauty")
model.evaluate(histories)  # the published figures
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elcrec.config import PAPER_AS_PUBLISHED, Config
from elcrec.errors import ELCRecError
from elcrec.estimator import ELCRec
from elcrec.model import Network


def load_published(path: Path | str, dataset: str, **changes: Any) -> ELCRec:
    """The model whose weights the published code has saved, set up as that code runs it.

    dataset: beauty, sports, toys or yelp, for the layers and intents; changes: to single fields of
    the config, such as `pooling="outputs"` to leave padding out of behaviours, which the published
    code does not. Raises ELCRecError for a file that holds other weights.
    """
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as fault:
        raise ELCRecError(f"{path} holds no weights that can be read safely: {fault}") from None
    config = Config.preset("paper", dataset, **PAPER_AS_PUBLISHED | changes)
    model = ELCRec(config)
    try:
        # Its last item is the id of a mask token, which is never recommended.
        model.n_items = weights["item_embeddings.weight"].shape[0] - 2
        network = Network(config, model.n_items)
        network.load_state_dict(_renamed(weights, config.layers) | {"shares": network.shares})
    except (KeyError, RuntimeError) as fault:
        raise ELCRecError(f"{path} holds no weights of ELCRec on {dataset}: {fault}") from None
    model.network = network.eval()
    return model


def _renamed(weights: dict[str, Tensor], layers: int) -> dict[str, Tensor]:
    renamed = {
        "items.weight": weights["item_embeddings.weight"][:-1],
        "positions.weight": weights["position_embeddings.weight"],
        "centers": weights["cluster_centers"],
    }
    for kind in ("weight", "bias"):
        renamed[f"norm.{kind}"] = weights[f"LayerNorm.{kind}"]
        for layer in range(layers):
            theirs, ours = f"item_encoder.layer.{layer}", f"blocks.{layer}"
            attention = f"{theirs}.attention"
            renamed |= {
                f"{ours}.attention.query_key_value.{kind}": torch.cat(
                    [weights[f"{attention}.{part}.{kind}"] for part in ("query", "key", "value")]
                ),
                f"{ours}.attention.output.{kind}": weights[f"{attention}.dense.{kind}"],
                f"{ours}.attention.norm.{kind}": weights[f"{attention}.LayerNorm.{kind}"],
                f"{ours}.expand.{kind}": weights[f"{theirs}.intermediate.dense_1.{kind}"],
                f"{ours}.contract.{kind}": weights[f"{theirs}.intermediate.dense_2.{kind}"],
                f"{ours}.norm.{kind}": weights[f"{theirs}.intermediate.LayerNorm.{kind}"],
            }
    return renamed
