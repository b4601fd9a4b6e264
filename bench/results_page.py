"""Write docs/results.md from bench/results/*.json, by the template bench/results.md.jinja.

    .venv/bin/python bench/results_page.py

No figure of a table is in the template: each comes from the file that its benchmark has written
with `--record NAME`, and the page says by which command, at which commit and on which machine.
"""

from __future__ import annotations

import re
from typing import Any

import jinja2

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


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(read()), "utf-8")
    print(f"{PAGE} is written from {len(read())} results")


if __name__ == "__main__":
    main()
