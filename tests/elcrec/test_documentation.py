import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "model.md"


@pytest.mark.slow
def test_the_example_of_the_library_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["items"].shape == (200, 5)
    assert names["model"].n_items == 45
