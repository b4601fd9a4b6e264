"""The scores of others: every one names its paper, and is found by the counts of its data."""

from tasks.chores.published_scores import by_counts, read


def test_every_method_with_a_score_names_its_paper_and_where_to_read_it() -> None:
    told = read()
    scored = {method for data in told["data"] for method in data["scores"]}
    assert scored == told["methods"].keys()
    for method in told["methods"].values():
        assert method["title"] and method["venue"]
        assert method["source"].startswith("https://")


def test_a_data_set_is_found_by_its_users_items_and_events() -> None:
    beauty = by_counts()[22_363, 12_101, 198_502]
    assert beauty.name == "Beauty"
    assert beauty.scores["ELCRec, NeurIPS 2024"]["NDCG@20"] == 0.0509
    assert (22_363, 12_101, 198_501) not in by_counts()


def test_every_score_is_a_share_of_the_users() -> None:
    scores = [s for data in by_counts().values() for s in data.scores.values()]
    assert all(0 < value < 1 for score in scores for value in score.values())
