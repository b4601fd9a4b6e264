"""Great Expectations, imported without Spark.

Where Spark's client is installed, Great Expectations would import all of it, in every check. And
the client ends a process whose main program is no file, as that of `python -c` or of a worker of
pytest: it takes it for one of its own doctests.
"""

import contextlib
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def _without_pyspark() -> Iterator[None]:
    """Let imports of pyspark fail, which Great Expectations is prepared for."""
    before = sys.modules.get("pyspark")
    sys.modules["pyspark"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if before is None:
            del sys.modules["pyspark"]
        else:
            sys.modules["pyspark"] = before


with _without_pyspark():
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

__all__ = ["ProgressBarsConfig", "gx"]
