"""Errors that the person on call can mend.

Each message is one sentence: what is wrong, in which file, row or setting, and what to do.
The command line prints it without a traceback and exits with 2; in Airflow the task fails with
it at once, because trying again cannot help. What can pass by itself (a disk that is full, a
network that is gone) is raised as it comes and tried again.
"""


class PipelineError(Exception):
    """Something the person on call can mend; the message says how."""


class SettingsError(PipelineError):
    """A setting is unknown, malformed or out of its range."""


class SourceError(PipelineError):
    """The input named by the settings under `source` cannot be read as events."""


class QualityError(PipelineError):
    """A blocking expectation of Great Expectations failed."""


class LakeError(PipelineError):
    """A table that a step reads is missing or cannot be read."""


class NightError(PipelineError):
    """The night cannot be run: no date, not over yet, or without events."""


class ModelError(PipelineError):
    """A model cannot be trained, found or used."""


class PublishError(PipelineError):
    """Labels cannot be given to their readers as they were promised."""


class ForgetError(PipelineError):
    """A person cannot be removed from the lake, or is not gone from it."""


class NamingError(PipelineError):
    """An intent cannot be given the name that a person wants."""


class NotReadyError(Exception):
    """What passes by itself: the message says what is waited for, and the step is tried again."""
