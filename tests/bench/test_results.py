"""Figures of benchmarks: how they are kept, and that the page of results is made of them."""

import json
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest

from bench.record import command, read, record
from bench.results_page import PAGE, machine, page, peer_rows, verdict


def test_the_page_of_results_is_the_one_that_the_results_give() -> None:
    assert PAGE.read_text("utf-8") == page(read()), "run .venv/bin/python bench/results_page.py"


@pytest.mark.parametrize("name", read())
def test_the_page_needs_every_result(name: str) -> None:
    others = {other: result for other, result in read().items() if other != name}
    with pytest.raises((jinja2.UndefinedError, KeyError), match=name):
        page(others)


def test_every_result_says_where_its_figures_are_from() -> None:
    for name, result in read().items():
        assert result["commit"] and result["date"] and result["figures"], name
        assert machine(result["machine"]), name


def test_a_result_is_kept_with_its_command_commit_and_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = ["/repo/bench/scale.py", "items", "--record", "scale", "--items", "1e5"]
    monkeypatch.setattr(sys, "argv", called)
    file = record("scale", {"rows": [{"items": 100_000, "step_ms": 48.1}]}, tmp_path / "results")
    assert file == tmp_path / "results" / "scale.json"
    kept = json.loads(file.read_text("utf-8"))
    assert kept["command"] == ".venv/bin/python bench/scale.py items --items 1e5"
    assert kept["figures"] == {"rows": [{"items": 100_000, "step_ms": 48.1}]}
    assert kept["machine"].keys() >= {"cpu", "cores", "avx512", "memory_gb"}
    assert len(kept["commit"].removesuffix("-changed")) == 7
    assert f"{kept['machine']['cores']} cores" in machine(kept["machine"])


def test_figures_that_are_measured_again_lose_the_remarks_on_the_old_ones(tmp_path: Path) -> None:
    file = record("one", {"figure": 1}, tmp_path)
    assert file
    file.write_text(json.dumps(json.loads(file.read_text()) | {"remarks": ["Of the old one."]}))
    record("one", {"figure": 2}, tmp_path)
    assert "remarks" not in read(tmp_path)["one"]


def test_without_a_name_nothing_is_kept(tmp_path: Path) -> None:
    assert record(None, {"figure": 1}, tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_a_figure_that_is_no_number_is_refused_and_the_old_ones_stay(tmp_path: Path) -> None:
    record("one", {"figure": 1}, tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        record("one", {"figure": float("nan")}, tmp_path)
    assert read(tmp_path)["one"]["figures"] == {"figure": 1}


def test_a_command_is_written_as_a_person_types_it() -> None:
    called = ["bench/quality.py", "--record=beauty", "--set", "intent_loss=none", "a b"]
    assert command(called) == ".venv/bin/python bench/quality.py --set intent_loss=none 'a b'"


def peers_and_ours() -> dict[str, dict[str, Any]]:
    def peer(title: str, lift: float) -> dict[str, Any]:
        chosen = {"alpha": 1.0, "normalise": True, "seed": 1, "k": 8}
        return {"title": title, "lift@20": lift, "intents": 8, "seconds": 3.0, "settings": chosen}

    runs = [{"seed": 1, "lift@20": 2.0, "minutes": 1}, {"seed": 2, "lift@20": 3.0, "minutes": 2}]
    return {
        "peers-one": {"figures": peer("one", 2.4)},
        "peers-two": {"figures": peer("two", 2.6)},
        "ours": {"figures": {"runs": runs}},
    }


def test_peers_and_the_means_of_our_seeds_stand_by_what_they_are_worth() -> None:
    rows = peer_rows(peers_and_ours(), ["peers-one", "peers-two"], "ours")
    assert [row["title"] for row in rows] == ["two", "**this project**", "one"]
    assert [row["seconds"] for row in rows] == [3.0, 90.0, 3.0]
    assert rows[0]["chosen"] == "alpha 1.0, normalise yes"
    assert rows[1]["lift@20"] == 2.5


def test_who_wins_is_said_in_either_case() -> None:
    results = peers_and_ours()
    of_one = peer_rows(results, ["peers-one"], "ours")
    assert verdict(of_one, "Beauty") == (
        "On Beauty this project is level with the best peer, one: "
        "lift@20 2.50 (2.00 to 3.00 by seed) to 2.40."
    )
    results["peers-one"]["figures"]["lift@20"] = 1.9
    ahead = verdict(peer_rows(results, ["peers-one"], "ours"), "Beauty")
    assert ahead.startswith("On Beauty this project is ahead of the best peer, one: ")
    results["ours"]["figures"]["runs"] = [{"seed": 1, "lift@20": 1.5}]
    behind = verdict(peer_rows(results, ["peers-one"], "ours"), "Beauty")
    assert behind == "On Beauty this project is behind the best peer, one: lift@20 1.50 to 1.90."
