"""How a task fails: with a sentence at the end of its log, tried again only where that can help.

Airflow logs the frames of every exception that a task raises, and a sentence is lost above them.
It logs none of a task that exits. So a task whose sentence says all exits with it: Airflow logs
"Task exited" with the sentence. A callback says the sentence when Airflow has logged the rest.
"""

import logging
from typing import Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryRule

log = logging.getLogger(__name__)


class TaskFailure(SystemExit):
    """A task has failed, and its sentence says why; without frames, for these would say less."""


class MendFirstError(TaskFailure):
    """A person has to mend something: trying again cannot help."""


class TryAgainError(TaskFailure):
    """It passes by itself: the task is tried again."""


RETRIES = ExceptionRetryPolicy(rules=[RetryRule(MendFirstError, RetryAction.FAIL)])


def say_why(context: Any) -> None:
    """End the log of a task that failed with why it did."""
    error = context.get("exception")
    if isinstance(error, TaskFailure):
        log.error("%s", error)
    elif isinstance(error, BaseException):
        log.error("%s: %s", type(error).__name__, error)
