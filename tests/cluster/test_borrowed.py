"""Which clusters of other people the suite would write to, without writing to any."""

from pathlib import Path

import pytest
from tests.cluster.borrowed import DEFINITION, NotOurs, allowed, check_unused


@pytest.mark.parametrize("context", ["production", "kind", "kind-", "my-kind-cluster", "arn:aws:eks:eu-west-1:1:cluster/kind-a", ""])
def test_a_kubeconfig_of_another_kind_is_refused(context: str, tmp_path: Path) -> None:
    """A cluster that isn't for tests is recognised by its name before anything is sent to it."""
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(f"current-context: {context}\n")

    with pytest.raises(NotOurs, match=r"kind-\* and k3d-\* alone"):
        allowed(kubeconfig)


@pytest.mark.parametrize(("context", "tool", "name"), [("kind-kind", "kind", "kind"), ("k3d-tidegate", "k3d", "tidegate")])
def test_clusters_of_kind_and_k3d_are_used(context: str, tool: str, name: str, tmp_path: Path) -> None:
    """And the tool that loads images into them is told their own name."""
    kubeconfig = tmp_path / "config"
    kubeconfig.write_text(f"current-context: {context}\n")

    found = allowed(kubeconfig)

    assert (found["tool"], found["cluster"]) == (tool, name)


def test_a_cluster_with_an_installation_is_refused() -> None:
    """At its end the suite removes the definition, and with it every tier of whoever works there."""
    asked: list[tuple[str, ...]] = []

    def kubectl(*arguments: str) -> str:
        asked.append(arguments)
        return answers.pop()

    answers = ["", "customresourcedefinition.apiextensions.k8s.io/ratelimittiers.tidegate.dev\n"]

    with pytest.raises(NotOurs, match="remove it with every tier: use a cluster without"):
        check_unused(kubectl)
    check_unused(kubectl)
    assert asked == [("get", DEFINITION, "--ignore-not-found", "--output", "name")] * 2
