"""The published weights in this network, with a stand-in file of the published shape and names."""

import pytest
import torch

from elcrec import ELCRecError
from elcrec.published import load_published
from tests.elcrec.test_training import walks

D, L, V = 64, 50, 40


def published_weights() -> dict[str, torch.Tensor]:
    """Random weights by the names that the published code saves for one layer."""
    shapes = {
        "cluster_centers": (256, D),
        "item_embeddings.weight": (V + 2, D),
        "position_embeddings.weight": (L, D),
        "LayerNorm": (D,),
    }
    layer = "item_encoder.layer.0"
    for part in ("query", "key", "value", "dense"):
        shapes[f"{layer}.attention.{part}"] = (D, D)
    shapes[f"{layer}.attention.LayerNorm"] = (D,)
    shapes[f"{layer}.intermediate.dense_1"] = (4 * D, D)
    shapes[f"{layer}.intermediate.dense_2"] = (D, 4 * D)
    shapes[f"{layer}.intermediate.LayerNorm"] = (D,)
    torch.manual_seed(0)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith("weight") or name == "cluster_centers":
            weights[name] = 0.1 * torch.randn(shape)
        else:
            weights[f"{name}.weight"] = 0.1 * torch.randn(shape)
            weights[f"{name}.bias"] = 0.1 * torch.randn(shape[:1])
    return weights


def test_published_weights_label_and_recommend(tmp_path):
    torch.save(published_weights(), tmp_path / "published.pt")
    model = load_published(tmp_path / "published.pt", "beauty")
    assert model.n_items == V
    assert (model.transform(walks()).intent >= 0).all()
    items, _ = model.recommend(walks(), k=3)
    assert items.max() <= V
    model.save(tmp_path / "saved")


def test_projections_land_where_attention_reads_them(tmp_path):
    weights = published_weights()
    torch.save(weights, tmp_path / "published.pt")
    model = load_published(tmp_path / "published.pt", "beauty")
    joined = model.network.blocks[0].attention.query_key_value
    layer = "item_encoder.layer.0.attention"
    for place, part in enumerate(("query", "key", "value")):
        rows = slice(place * D, (place + 1) * D)
        torch.testing.assert_close(joined.weight[rows], weights[f"{layer}.{part}.weight"])
        torch.testing.assert_close(joined.bias[rows], weights[f"{layer}.{part}.bias"])


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.pt").write_text("no weights")
    torch.save({"item_embeddings.weight": torch.zeros(3, 64)}, tmp_path / "part.pt")
    for name in ("text.pt", "part.pt"):
        with pytest.raises(ELCRecError, match="holds no weights"):
            load_published(tmp_path / name, "beauty")


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Harm:
        def __reduce__(self):
            return (open, (str(tmp_path / "harm"), "w"))

    torch.save(Harm(), tmp_path / "harmful.pt")
    with pytest.raises(ELCRecError, match="read safely"):
        load_published(tmp_path / "harmful.pt", "beauty")
    assert not (tmp_path / "harm").exists()
