"""How many pods there are, and how many may go at once, as `helm template` renders it."""

import json

import pytest
from tests.chart.rendering import Helm, Json, find, refusal, render


@pytest.mark.parametrize(("scaler", "kind"), [("autoscaling", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")])
def test_a_scaler_of_each_region_decides_and_the_deployment_says_nothing(helm: Helm, scaler: str, kind: str) -> None:
    """A Deployment that says how many would undo what was scaled, at each upgrade."""
    documents = render(helm, "--set", f"api.{scaler}.enabled=true,api.{scaler}.minReplicas=3,api.{scaler}.maxReplicas=7")

    for name in ("tidegate-api-frankfurt", "tidegate-api-dublin"):
        spec = find(documents, kind, name)["spec"]
        assert spec["scaleTargetRef"]["name"] == name
        assert sorted(number for key, number in spec.items() if key.startswith(("min", "max"))) == [3, 7]
        assert "replicas" not in find(documents, "Deployment", name)["spec"]


def test_by_default_the_values_decide(rendered: list[Json]) -> None:
    assert find(rendered, "Deployment", "tidegate-api-dublin")["spec"]["replicas"] == 2
    assert not [found for found in rendered if found["kind"] in ("HorizontalPodAutoscaler", "ScaledObject")]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("api.autoscaling.enabled=true,api.keda.enabled=true", "both would scale the same pods, each against the other; enable one"),
        ("api.autoscaling.enabled=true,api.autoscaling.minReplicas=11", "11 is more than maxReplicas, 10"),
        ("api.keda.enabled=true,api.keda.minReplicas=11", "11 is more than maxReplicas, 10"),
        ("api.keda.enabled=true,api.keda.triggers=null", "triggers"),
        ("api.autoscaling.enabled=true,api.resources.requests.cpu=null", "set api.resources.requests.cpu"),
        ("api.keda.enabled=true,api.resources.requests.cpu=null", "set api.resources.requests.cpu"),
    ],
)
def test_scalers_that_could_not_work_are_refused_with_a_sentence(helm: Helm, values: str, said: str) -> None:
    assert said in refusal(helm, "--set", values)


def test_scaling_follows_cpu_or_what_keda_is_told(helm: Helm) -> None:
    trigger = {"type": "prometheus", "metadata": {"query": "sum(tidegate_admission_waiting)", "threshold": "1"}}
    behavior = {"scaleDown": {"stabilizationWindowSeconds": 600}}
    cpu = "api.autoscaling.enabled=true,api.autoscaling.targetCPUUtilizationPercentage=50"
    scaled = render(helm, "--set", cpu, "--set-json", f"api.autoscaling.behavior={json.dumps(behavior)}")
    asked = render(helm, "--set", "api.keda.enabled=true", "--set-json", f"api.keda.triggers={json.dumps([trigger])}")

    spec = find(scaled, "HorizontalPodAutoscaler", "tidegate-api-dublin")["spec"]
    assert spec["metrics"][0]["containerResource"]["target"] == {"type": "Utilization", "averageUtilization": 50}
    assert spec["behavior"] == behavior
    assert find(asked, "ScaledObject", "tidegate-api-dublin")["spec"]["triggers"] == [trigger]


def test_scaling_by_cpu_looks_at_the_api_alone(helm: Helm) -> None:
    """A container beside it that requests none would end it, as Kubernetes then cannot say what part of its request a pod uses."""
    scaled = render(helm, "--set", "api.autoscaling.enabled=true")
    asked = render(helm, "--set", "api.keda.enabled=true")

    (metric,) = find(scaled, "HorizontalPodAutoscaler", "tidegate-api-dublin")["spec"]["metrics"]
    (trigger,) = find(asked, "ScaledObject", "tidegate-api-dublin")["spec"]["triggers"]
    (container,) = find(scaled, "Deployment", "tidegate-api-dublin")["spec"]["template"]["spec"]["containers"]
    assert metric["containerResource"]["container"] == trigger["metadata"]["containerName"] == container["name"]


@pytest.mark.parametrize(
    ("values", "budgets"),
    [
        ("api.replicas=2", 2),
        ("api.replicas=1", 0),
        ("api.autoscaling.enabled=true,api.replicas=1", 2),
        ("api.autoscaling.enabled=true,api.autoscaling.minReplicas=1", 0),
        ("api.keda.enabled=true,api.keda.minReplicas=1", 0),
    ],
)
def test_a_drain_takes_one_pod_of_a_region_at_a_time_and_is_not_held_up_by_an_only_one(helm: Helm, values: str, budgets: int) -> None:
    found = [each["spec"] for each in render(helm, "--set", values) if each["kind"] == "PodDisruptionBudget"]

    assert [(spec["maxUnavailable"], spec["unhealthyPodEvictionPolicy"]) for spec in found] == [(1, "AlwaysAllow")] * budgets
