"""What a region's Redis keeps when it is restarted."""

import pytest
from tests.chart.rendering import CHART, Helm, Json, find, refusal, render

KEPT = ("--set", "redis.persistence.enabled=true,redis.resources.limits.memory=320Mi")


def server(documents: list[Json]) -> Json:
    """The StatefulSet of a region's Redis."""
    return dict(find(documents, "StatefulSet", "tidegate-redis-dublin")["spec"])


def arguments(spec: Json) -> dict[str, str]:
    """Options of the server."""
    given = iter(spec["template"]["spec"]["containers"][0]["args"])
    return dict(zip(given, given, strict=True))


def test_usage_is_on_no_disk_unless_told_otherwise(rendered: list[Json]) -> None:
    spec = server(rendered)

    assert arguments(spec)["--appendonly"] == "no"
    assert "volumeClaimTemplates" not in spec
    assert {"name": "data", "emptyDir": {"sizeLimit": "64Mi"}} in spec["template"]["spec"]["volumes"]


@pytest.mark.parametrize("options", [(), ("--set", "redis.persistence.storageClassName=fast,redis.persistence.size=2Gi")])
def test_usage_is_kept_on_a_volume_of_each_region(helm: Helm, options: tuple[str, ...]) -> None:
    spec = server(render(helm, *KEPT, *options))
    (claim,) = spec["volumeClaimTemplates"]

    assert arguments(spec)["--appendonly"] == "yes"
    assert [volume["name"] for volume in spec["template"]["spec"]["volumes"]] == ["config"]
    assert claim["metadata"]["name"] == "data"
    assert claim["spec"]["resources"]["requests"]["storage"] == ("2Gi" if options else "1Gi")
    assert claim["spec"].get("storageClassName") == ("fast" if options else None)


def test_a_log_whose_rewriting_would_kill_its_server_is_refused_with_the_memory_that_it_takes(helm: Helm) -> None:
    said = refusal(helm, "--set", "redis.persistence.enabled=true")

    assert "redis.resources.limits.memory: 256Mi is too little for redis.maxMemory, 160mb" in said
    assert "set 320Mi or more" in said


def test_a_log_that_would_fill_its_volume_is_refused(helm: Helm) -> None:
    """A server that cannot write its log any more ends, and does so again at each start."""
    said = refusal(helm, *KEPT, "--set", "redis.persistence.size=479Mi")

    assert "redis.persistence.size: 479Mi is too little for redis.maxMemory, 160mb" in said
    assert "fill the volume of tidegate-redis-frankfurt, and the server would end; 480Mi or more" in said


def test_the_notes_name_the_volumes_that_stay(helm: Helm) -> None:
    notes = helm("install", "tidegate", str(CHART), "--dry-run=client", *KEPT).stdout

    assert "what customers used: PersistentVolumeClaims data-tidegate-redis-frankfurt-0 data-tidegate-redis-dublin-0.\n" in notes
