"""ELCRec: end-to-end learnable clustering for intent learning in recommendation, as a library.

Numpy arrays and torch in, arrays out; knows no table, no file format but its own, no scheduler.
"""

from elcrec.config import Config
from elcrec.errors import ELCRecError
from elcrec.estimator import ELCRec
from elcrec.histories import Histories
from elcrec.intents import Labels
from elcrec.training import EpochReport

__all__ = ["Config", "ELCRec", "ELCRecError", "EpochReport", "Histories", "Labels"]
__version__ = "0.1.0"
