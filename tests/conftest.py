"""What tests of several rooms share: settings on a lake of their own, and where real data lies."""

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the settings of the person who runs the tests out of them."""
    for name in list(os.environ):
        if name.startswith("ELCREC_") and name != "ELCREC_DATA":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Find the folder of real data sets, or skip: they may not be copied into the repository."""
    named = os.environ.get("ELCREC_DATA")
    for folder in (Path(named) if named else None, REPO.parent / "shared" / "data"):
        if folder is not None and folder.is_dir():
            return folder
    pytest.skip("no real data: ../shared/data is missing and ELCREC_DATA names no folder")
