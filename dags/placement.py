"""Where the task of a step runs: in which queue of Celery, in what pod of Kubernetes.

The package `kubernetes` is imported here alone, when its setting is used: the default install has
none.
"""

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from tasks.errors import SettingsError
from tasks.settings import AirflowSettings


def placed(step: str, airflow: AirflowSettings) -> dict[str, Any]:
    """Return what Airflow is told about the place of a step's task.

    The training alone has one of its own: it needs more of a machine than the others.
    """
    if step != "train":
        return {}
    pod = airflow.training_pod
    return {
        "queue": airflow.training_queue,
        "executor_config": {"pod_override": pod_of(pod)} if pod else {},
    }


def pod_of(setting: Mapping[str, Any]) -> Any:
    """Return a part of a pod, written as Kubernetes does (camel case), as a `V1Pod`.

    Raises
    ------
    SettingsError
        The package is missing, or the setting has a field that no pod has: Kubernetes' client
        would leave that out without a word.
    """
    try:
        from kubernetes.client import ApiClient
    except ImportError:
        raise SettingsError(
            "setting airflow.training_pod needs a package that is not installed: "
            'run pip install ".[kubernetes]" with the --constraint of your Python in constraints/, '
            "or leave the setting empty"
        ) from None
    client = ApiClient()
    try:
        # `deserialize` wants a reply of Kubernetes' API server.
        pod = client.deserialize(SimpleNamespace(data=json.dumps(setting)), "V1Pod")
    except (ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"setting airflow.training_pod is no part of a pod: {error}") from None
    lost = _lost(setting, client.sanitize_for_serialization(pod))
    if lost:
        raise SettingsError(
            f"setting airflow.training_pod: {lost} is nothing that a pod has; correct its name, "
            "or write its value as Kubernetes does (a quantity is a text)"
        )
    return pod


def _lost(given: Any, kept: Any, path: str = "") -> str:
    """Return the path of the first part of `given` that is not in `kept`; "" when all is."""
    if isinstance(given, Mapping) and isinstance(kept, Mapping):
        parts = [(key, value, kept.get(key)) for key, value in given.items()]
    elif isinstance(given, list) and isinstance(kept, list) and len(given) == len(kept):
        parts = [(str(i), *pair) for i, pair in enumerate(zip(given, kept, strict=True))]
    else:
        return "" if given == kept else path
    return next(filter(None, (_lost(a, b, f"{path}.{key}".strip(".")) for key, a, b in parts)), "")
