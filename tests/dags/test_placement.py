"""Where the training runs."""

import sys
from typing import Any

import pytest

from dags.placement import placed
from tasks.errors import SettingsError
from tasks.settings import AirflowSettings, load_settings
from tasks.steps import STEPS

RESOURCES = {"limits": {"nvidia.com/gpu": "1", "memory": "32Gi"}, "requests": {"cpu": "4"}}
POD = {
    "spec": {
        "containers": [{"name": "base", "resources": RESOURCES}],
        "nodeSelector": {"pool": "gpu"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
}


def test_the_training_alone_has_a_place_of_its_own() -> None:
    airflow = AirflowSettings(training_queue="gpu")
    assert placed("train", airflow) == {"queue": "gpu", "executor_config": {}}
    assert [name for name in STEPS if placed(name, airflow)] == ["train"]


def test_the_training_pod_is_what_kubernetes_executor_adds_to_its_template() -> None:
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    from kubernetes.client import models as k8s

    override = placed("train", AirflowSettings(training_pod=POD))["executor_config"]["pod_override"]
    template = k8s.V1Pod(
        spec=k8s.V1PodSpec(containers=[k8s.V1Container(name="base", image="elcrec-nightly:1")])
    )
    pod = PodGenerator.reconcile_pods(template, override)
    (container,) = pod.spec.containers
    assert container.image == "elcrec-nightly:1"
    assert container.resources.limits == RESOURCES["limits"]
    assert container.resources.requests == RESOURCES["requests"]
    assert pod.spec.node_selector == {"pool": "gpu"}
    assert pod.spec.tolerations[0].key == "nvidia.com/gpu"


def test_the_pod_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    monkeypatch.setenv("ELCREC_AIRFLOW__TRAINING_POD", json.dumps(POD))
    assert load_settings().airflow.training_pod == POD


@pytest.mark.parametrize(
    ("pod", "says"),
    [
        ({"sepc": {}}, "sepc is nothing that a pod has"),
        (
            {"spec": {"containers": [{"name": "base", "resource": {}}]}},
            "spec.containers.0.resource is nothing that a pod has",
        ),
        (
            {"spec": {"containers": [{"name": "base", "resources": {"limits": {"memory": 32}}}]}},
            "spec.containers.0.resources.limits.memory is nothing that a pod has",
        ),
        ({"spec": {"nodeSelector": {"pool": "gpu"}}}, "is no part of a pod: .*`containers`"),
        ({"spec": {"containers": [{"resources": RESOURCES}]}}, "is no part of a pod: .*`name`"),
        ({"spec": "gpu"}, "setting airflow.training_pod"),
    ],
)
def test_what_no_pod_has_is_refused_with_its_place(pod: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        placed("train", AirflowSettings(training_pod=pod))


def test_without_the_package_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes.client", None)
    with pytest.raises(SettingsError, match=r"pip install .*\[kubernetes\]"):
        placed("train", AirflowSettings(training_pod=POD))
    assert placed("train", AirflowSettings())["executor_config"] == {}
