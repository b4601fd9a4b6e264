"""The trainings of bench/paper.py, on a data set that fits a test."""

import json
import sys

import pytest
import torch

from bench import paper
from tests.elcrec.test_training import walks

SMALL = ("dim=8", "n_intents=4", "max_length=10", "batch_users=64", "warmup_epochs=1")


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """Run the program as its users do; give what it prints."""
    file = tmp_path / "walks.txt"
    histories = walks()
    file.write_text(
        "".join(f"{u} {' '.join(map(str, histories[u]))}\n" for u in range(len(histories)))
    )
    folders = ("--results", tmp_path / "results", "--checkpoints", tmp_path / "checkpoints")

    def run(do: str, *given: str) -> str:
        command = ["bench/paper.py", do, "--file", file, *folders, *given]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        threads = torch.get_num_threads()
        try:
            paper.main()
        finally:
            torch.set_flush_denormal(False)
            torch.set_num_threads(threads)
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_a_training_goes_on_where_it_was_left_and_its_figures_stand_beside_the_papers(
    bench, tmp_path, monkeypatch
):
    settings = ("--label", "small", "--ablations", "B+ELCM", "--set", *SMALL)
    monkeypatch.setattr(paper, "MEASURED_EVERY", 1)  # in the warm-up, too
    first = bench("train", *settings, "max_epochs=2")
    path = tmp_path / "results" / "paper-beauty-b-elcm-small-1.json"
    whole = json.loads(path.read_text())
    done = whole["figures"]
    assert done["done"] and [epoch["epoch"] for epoch in done["epochs"]] == [1, 2]
    assert set(done["epochs"][1]["losses"]) == {"next_item", "clustering"}
    assert done["config"]["max_epochs"] == 2 and whole["commit"]
    # A training that is done is left alone; one that is not goes on from its checkpoint.
    assert first.count("epoch") == 2 and bench("train", *settings, "max_epochs=2") == ""
    path.write_text(json.dumps(whole | {"figures": done | {"done": False}}))
    assert bench("train", *settings, "max_epochs=2") == ""
    again = json.loads(path.read_text())["figures"]
    assert (again["test"], again["epochs"]) == (done["test"], done["epochs"])

    lines = bench("show").splitlines()
    [row] = [line for line in lines if line.startswith("| beauty-b-elcm-small-1 | 0")]
    share = done["test"]["HR@5"] / 0.0529
    assert f"{done['test']['HR@5']:.4f} ({share:.0%})" in row
    picture = (tmp_path / "results" / "paper-convergence.svg").read_text()
    assert picture.count("<polyline") == 1 and "beauty-b-elcm-small-1" in picture


@pytest.mark.slow
def test_weights_between_the_warm_ups_and_the_last_are_measured(bench, tmp_path):
    settings = ("--label", "two", "--set", *SMALL, "max_epochs=3", "warmup_share=0.5")
    bench("train", *settings)
    assert bench("between", *settings).count("beauty-full-two-1") == len(paper.BETWEEN)
    results = tmp_path / "results"
    read = json.loads((results / "paper-between-beauty-full-two-1.json").read_text())["figures"]
    trained = json.loads((results / "paper-beauty-full-two-1.json").read_text())["figures"]
    assert [one["share"] for one in read["between"]] == list(paper.BETWEEN)
    assert read["between"][0] != read["between"][-1]
    [half] = [one for one in read["between"] if one["share"] == 0.5]
    last = trained["epochs"][-1]["validation"]
    assert half["validation"]["NDCG@20"] == pytest.approx(last["NDCG@20"], abs=1e-5)


@pytest.mark.slow
def test_a_training_goes_on_from_another_by_settings_of_its_own(bench, tmp_path):
    bench("train", "--label", "one", "--set", *SMALL, "max_epochs=2")
    other = ("--label", "two", "--from", "beauty-full-one-1", "--set", *SMALL)
    printed = bench("train", *other, "max_epochs=3", "pooling=padded_outputs", "warmup_share=0.5")
    assert printed.count("epoch") == 1 and "epoch 3" in printed
    first, then = (
        json.loads((tmp_path / "results" / f"paper-beauty-full-{name}-1.json").read_text())
        for name in ("one", "two")
    )
    assert then["figures"]["epochs"][:2] == first["figures"]["epochs"]
    bench("between", *other, "max_epochs=3", "pooling=padded_outputs", "warmup_share=0.5")
    file = tmp_path / "results" / "paper-between-beauty-full-two-1.json"
    *_, whole = json.loads(file.read_text())["figures"]["between"]
    last = first["figures"]["epochs"][-1]["validation"]["NDCG@20"]
    assert whole["share"] == 1.0 and whole["validation"]["NDCG@20"] == pytest.approx(last, abs=1e-5)


@pytest.mark.slow
def test_both_ways_to_train_are_timed(bench, tmp_path):
    bench("cost", "--label", "small", "--set", *SMALL)
    file = tmp_path / "results" / "paper-cost-beauty.json"
    ways = json.loads(file.read_text())["figures"]["ways"]
    assert set(ways) == {"end to end", "alternating"}
    for way in ways.values():
        assert min(way["epoch_s"], way["epoch_processor_s"], way["peak_mb"]) > 0
    assert "| beauty |" in bench("show").split("| processor time on")[1]


@pytest.mark.parametrize("alone", [("--set", "dim=8"), ("--label", "small")])
def test_changed_settings_need_a_label_to_tell_their_training_from_the_presets(bench, alone):
    with pytest.raises(SystemExit):
        bench("train", *alone)
