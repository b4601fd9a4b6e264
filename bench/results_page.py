"""Write docs/results.md from bench/results/*.json, by the template bench/results.md.jinja.

    .venv/bin/python bench/results_page.py

No figure of a table is in the template: each comes from the file that its benchmark has written
with `--record NAME`, and the page says by which command, at which commit and on which machine.
"""

from __future__ import annotations

import re
from typing import Any

import jinja2

from bench.peers import PEERS
from bench.record import REPO, read
from tasks.chores import published_scores

TEMPLATE = REPO / "bench" / "results.md.jinja"
PAGE = REPO / "docs" / "results.md"


def page(results: dict[str, dict[str, Any]]) -> str:
    """Return the page of these results; an unknown name or figure in the template is an error."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    environment.filters |= {"f": fixed, "short": short}
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    published = published_scores.read()
    text = template.render(
        results=results,
        origin=lambda names: origin([results[name] for name in names]),
        methods=published["methods"],
        scores={data["name"]: data["scores"] for data in published["data"]},
        step=lambda name, events, label: step(results[name]["figures"]["rows"], events, label),
        peer_rows=lambda names, own: peer_rows(results, names, own),
        names=lambda data, peers: [f"peers-{data}-{peer}" for peer in peers],
        verdict=verdict,
        not_measured=not_measured,
    )
    # What is not there leaves its blank lines.
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def origin(results: list[dict[str, Any]]) -> str:
    """Write the commands of results, and at which commits and on which machines they ran."""
    commands = dict.fromkeys(result["command"] for result in results)
    runs = dict.fromkeys(
        f"{'before' if result.get('carried_over') else 'at'} commit {result['commit']} "
        f"({result['date']}), on {machine(result['machine'])}"
        for result in results
    )
    return "\n".join(["```sh", *commands, "```", "", f"Measured {', and '.join(runs)}."])


def fixed(value: float | None, digits: int = 0) -> str:
    """Write a number with so many digits and commas between thousands; nothing for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def short(value: float) -> str:
    """Write a number of any size with three digits that count."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def machine(facts: dict[str, Any]) -> str:
    """Describe the machine of a result, or give what was told of it before it was recorded."""
    if told := facts.get("told"):
        return str(told)
    avx512 = "with" if facts["avx512"] else "without"
    words = f"{facts['cpu']}, {facts['cores']} cores {avx512} AVX-512, {facts['memory_gb']} GB"
    return words + (f", {facts['gpu']}" if facts.get("gpu") else "")


def step(rows: list[dict[str, Any]], events: int, label: str) -> dict[str, Any]:
    """Find the row of a step at a size; {} where it was not measured."""
    return next((row for row in rows if (row["events"], row["step"]) == (events, label)), {})


def peer_rows(
    results: dict[str, dict[str, Any]], names: list[str], own: str
) -> list[dict[str, Any]]:
    """Return the rows of peers and of the project's own means over seeds, the best first.

    Each has `title`, its figures, `seconds` (None where they were not measured) and `chosen`, the
    settings in words. The best is of lift@20 or, among recommendations, of NDCG@20.
    """
    rows = [dict(results[name]["figures"], own=False) for name in names]
    for row in rows:
        row["chosen"] = _chosen(row.get("settings", {}))
    runs = results[own]["figures"]["runs"]
    mean = {name: sum(run[name] for run in runs) / len(runs) for name in runs[0] if name != "seed"}
    if "seconds" not in mean:
        mean["seconds"] = 60 * mean["minutes"] if "minutes" in mean else None
    seeds = "one seed" if len(runs) == 1 else f"{len(runs)} seeds"
    by = _decisive(rows)
    spread = (min(run[by] for run in runs), max(run[by] for run in runs))
    about = {"title": "**this project**", "own": True, "chosen": f"`default`, {seeds}"}
    rows.append(mean | about | {"spread": spread})
    return sorted(rows, key=lambda row: row[by], reverse=True)


def verdict(rows: list[dict[str, Any]], data: str) -> str:
    """Say who wins among the rows of `peer_rows`, and where the project is.

    A peer whose figure lies between those of the project's seeds is level with it.
    """
    by = _decisive(rows)
    digits = 2 if by == "lift@20" else 4
    best = next(row for row in rows if not row["own"])
    own = next(row for row in rows if row["own"])
    low, high = own["spread"]
    if low < high and low <= best[by] <= high:
        place = "level with the best peer"
    else:
        place = "ahead of the best peer" if own[by] > best[by] else "behind the best peer"
    seeds = f" ({low:.{digits}f} to {high:.{digits}f} by seed)" if low < high else ""
    figures = f"{by} {own[by]:.{digits}f}{seeds} to {best[by]:.{digits}f}"
    return f"On {data} this project is {place}, {best['title']}: {figures}."


def not_measured(names: list[str]) -> str:
    """Name the peers of bench/peers.py whose figures are not among the names; "" if all are."""
    missing = [peer.title for name, peer in PEERS.items() if name not in names]
    return ", ".join(missing)


def _decisive(rows: list[dict[str, Any]]) -> str:
    return "lift@20" if any("intents" in row for row in rows) else "NDCG@20"


def _chosen(settings: dict[str, Any]) -> str:
    ended = "; its time was up" if settings.get("ended") == "time" else ""
    told = {"seed", "k", "cpu_seconds", "ended"}
    words = {True: "yes", False: "no"}
    return (
        ", ".join(
            f"{name.replace('_', ' ')} {words[value] if isinstance(value, bool) else value}"
            for name, value in settings.items()
            if name not in told
        )
        + ended
    )


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(read()), "utf-8")
    print(f"{PAGE} is written from {len(read())} results")


if __name__ == "__main__":
    main()
