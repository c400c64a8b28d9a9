"""The pod of `helm test`, as `helm template` renders it; tests/redis/test_smoke.py shows what it asks."""

from tests.chart.rendering import Helm, Json, find, render

from tidegate.commands.smoke import smoke


def pod(documents: list[Json]) -> Json:
    return find(documents, "Pod", "tidegate-test")


def test_every_region_and_all_together_are_asked_when_told_to(helm: Helm) -> None:
    documents = render(helm, "--set", "service.port=8080")
    (container,) = pod(documents)["spec"]["containers"]
    urls = [argument for argument in container["args"] if not argument.startswith("--")]
    services = {found["metadata"]["name"]: found["spec"]["ports"][0]["port"] for found in documents if found["kind"] == "Service"}

    assert pod(documents)["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert urls == ["http://tidegate-api-frankfurt", "http://tidegate-api-dublin", "http://tidegate:8080"]
    assert [services[url.removeprefix("http://").partition(":")[0]] for url in urls] == [80, 80, 8080]
    assert container["command"] == ["tidegate", "smoke"]
    assert smoke.make_context("smoke", list(container["args"])).params["urls"] == tuple(urls)


def test_a_token_comes_from_a_secret(helm: Helm, rendered: list[Json]) -> None:
    spec = pod(render(helm, "--set", "test.existingSecret=mine"))["spec"]

    assert spec["volumes"] == [{"name": "token", "secret": {"secretName": "mine"}}]
    assert spec["containers"][0]["volumeMounts"][0]["mountPath"] in spec["containers"][0]["args"][-1]
    assert "volumes" not in pod(rendered)["spec"]


def test_the_test_is_none_of_the_pods_that_anything_else_finds(rendered: list[Json]) -> None:
    """A Service that found it would send it requests."""
    labels = pod(rendered)["metadata"]["labels"]
    selectors = [found["spec"]["selector"] for found in rendered if found["kind"] == "Service"]

    assert labels["app.kubernetes.io/component"] == "test"
    assert not [selector for selector in selectors if selector.items() <= labels.items()]
