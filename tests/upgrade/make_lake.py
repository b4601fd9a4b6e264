"""Make `lake-298a321.tar.xz`: ten nights as the code of commit 298a321 left them.

    git worktree add /tmp/old 298a321
    .venv/bin/python tests/upgrade/make_lake.py /tmp/old

The nights are run by that commit's own command line. In the archive: `events/` of the ten nights
and of two more, `lake/` without the pages of the checks, and `published/`, the Parquet files that
the nights were published to. `test_upgrade.py` goes on from there.
"""

import datetime as dt
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ARCHIVE = Path(__file__).resolve().parent / "lake-298a321.tar.xz"
LAST = dt.date(2026, 11, 20)  # of the nights that are run; the events go on for two more
NIGHTS = [LAST - dt.timedelta(days=age) for age in range(9, -1, -1)]
MODEL = {
    "n_intents": 4,
    "max_epochs": 4,
    "patience": 4,
    "warm_epochs": 2,
    "device": "cpu",
    "threads": 1,
    "max_length": 20,
    "overrides": '{"dim": 16, "layers": 1, "batch_users": 16}',
}


def main() -> None:
    """Run from the command line."""
    checkout = Path(sys.argv[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tasks(
            checkout,
            *("generate", "--out", folder / "generated", "--users", 60, "--items", 50),
            *("--intents", 4, "--nights", 16, "--night", LAST + dt.timedelta(days=2)),
        )
        (folder / "generated" / "events").rename(folder / "events")
        sets = {f"model.{key}": value for key, value in MODEL.items()} | {
            "promote.force": "true",
            "publish.parquet": folder / "published",
            "duckdb.threads": 1,
        }
        for night in NIGHTS:
            tasks(
                checkout,
                *("run", "--quiet", "--night", night),
                *("--events", folder / "events", "--lake", folder / "lake"),
                *(part for key, value in sets.items() for part in ("--set", f"{key}={value}")),
            )
        with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
            for part in ("events", "lake", "published"):
                archive.add(folder / part, part, filter=_kept)
    print(f"{ARCHIVE}: {ARCHIVE.stat().st_size / 1e3:.0f} kB")


def tasks(checkout: Path, *arguments: object) -> None:
    """Run the command line of the old commit."""
    subprocess.run([sys.executable, "-m", "tasks", *map(str, arguments)], cwd=checkout, check=True)


def _kept(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Leave out what the next nights do not read, and who made the archive."""
    parts = Path(member.name).parts
    if parts[:2] in {("lake", "quality"), ("lake", ".locks"), ("lake", ".lock")}:
        return None
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main()
