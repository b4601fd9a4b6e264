"""ELCRec: end-to-end learnable clustering for intent learning in recommendation, as a library.

Numpy arrays and torch in, arrays out; knows no table, no file format but its own, no scheduler.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from elcrec.config import Config
from elcrec.errors import ELCRecError
from elcrec.histories import Histories

if TYPE_CHECKING:
    from elcrec.estimator import ELCRec
    from elcrec.intents import Labels
    from elcrec.training import EpochReport

__all__ = ["Config", "ELCRec", "ELCRecError", "EpochReport", "Histories", "Labels"]
__version__ = "0.1.0"

# Imported when they are first used: they load torch, and histories and configurations need none.
_NEED_TORCH = {
    "ELCRec": "elcrec.estimator",
    "EpochReport": "elcrec.training",
    "Labels": "elcrec.intents",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_NEED_TORCH[name]), name)
