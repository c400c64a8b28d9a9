"""What a user adds to the objects of the chart, as `helm template` renders it."""

import json

import pytest
import yaml
from tests.chart.rendering import Helm, Json, find, pods, refusal, render, templates

LABELS = 'commonLabels={"team":"edge","app.kubernetes.io/component":"mine"}'
COMPONENTS = {
    "api": ("Deployment", "tidegate-api-frankfurt"),
    "operator": ("Deployment", "tidegate-operator"),
    "redis": ("StatefulSet", "tidegate-redis-frankfurt"),
    "store": ("StatefulSet", "tidegate-store"),
}


def pod_template(documents: list[Json], component: str) -> Json:
    """The pod template of a component, the first region's where there is one in each."""
    return dict(find(documents, *COMPONENTS[component])["spec"]["template"])


@pytest.mark.parametrize("values", ["store.type=Redis", "store.type=Etcd"])
def test_common_labels_and_annotations_are_on_everything(helm: Helm, values: str) -> None:
    documents = render(helm, "--set", values, "--set-json", LABELS, "--set-json", 'commonAnnotations={"owner":"platform"}')

    assert len(documents) > 10
    for document in documents:
        assert document["metadata"]["labels"]["team"] == "edge", document["kind"]
        assert document["metadata"]["annotations"]["owner"] == "platform", document["kind"]
    assert all(template["metadata"]["labels"]["team"] == "edge" for template in templates(documents))


def test_labels_of_ones_own_do_not_change_what_selectors_find(helm: Helm, rendered: list[Json]) -> None:
    """A Deployment whose pods its selector does not find is refused."""
    documents = render(helm, "--set-json", LABELS, "--set-json", 'api.podLabels={"tidegate.dev/region":"mine","cost":"1"}')
    template = pod_template(documents, "api")

    assert template["metadata"]["labels"]["tidegate.dev/region"] == "frankfurt"
    assert template["metadata"]["labels"]["app.kubernetes.io/component"] == "api"
    assert template["metadata"]["labels"]["cost"] == "1"
    assert [selector(document) for document in documents] == [selector(document) for document in rendered]


def selector(document: Json) -> Json | None:
    """What a workload, a Service or a budget finds its pods by."""
    return dict(document.get("spec", {}).get("selector") or {})


def test_labels_of_one_object_win_over_those_of_everything(helm: Helm) -> None:
    """By its own a Prometheus finds a monitor, whatever all objects are marked with."""
    own = "metrics.podMonitor.enabled=true,metrics.podMonitor.labels.team=monitoring,api.podLabels.team=api"
    documents = render(helm, "--set", own, "--set-json", LABELS)

    assert find(documents, "PodMonitor", "tidegate-api")["metadata"]["labels"]["team"] == "monitoring"
    assert pod_template(documents, "api")["metadata"]["labels"]["team"] == "api"


@pytest.mark.parametrize("component", COMPONENTS)
def test_pods_of_each_component_go_where_they_are_told(helm: Helm, component: str) -> None:
    given = {
        "podLabels": {"cost": "1"},
        "podAnnotations": {"sidecar": "no"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "reserved", "operator": "Exists"}],
        "affinity": {"podAffinity": {}},
        "priorityClassName": "high",
    }
    options = [option for name, value in given.items() for option in ("--set-json", f"{component}.{name}={json.dumps(value)}")]

    template = pod_template(render(helm, *options), component)

    assert template["metadata"]["labels"]["cost"] == "1"
    assert template["metadata"]["annotations"]["sidecar"] == "no"
    assert {name: template["spec"][name] for name in list(given)[2:]} == {name: given[name] for name in list(given)[2:]}


def test_failure_domains_decide_about_nodes_before_an_affinity_does(helm: Helm) -> None:
    """And what else an affinity says stays."""
    affinity = 'store.affinity={"nodeAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":{}},"podAntiAffinity":{"x":1}}'
    documents = render(helm, "--set", "store.type=Etcd,store.etcd.failureDomains={a,b,c}", "--set-json", affinity)

    shown = pod_template(documents, "store")["spec"]["affinity"]
    assert shown["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert shown["podAntiAffinity"] == {"x": 1}


def test_a_zone_of_a_region_wins_over_a_node_selector(helm: Helm) -> None:
    own = 'api.nodeSelector={"topology.kubernetes.io/zone":"other","disk":"fast"}'
    documents = render(helm, "--set", "regions[0].name=frankfurt,regions[0].zone=eu-1", "--set-json", own)

    assert pod_template(documents, "api")["spec"]["nodeSelector"] == {"topology.kubernetes.io/zone": "eu-1", "disk": "fast"}


@pytest.mark.parametrize(("component", "own"), [("api", "TIDEGATE_REGION"), ("operator", "TIDEGATE_OPERATOR_NAMESPACE")])
def test_variables_containers_and_volumes_are_added_to_those_of_the_chart(helm: Helm, component: str, own: str) -> None:
    given = {
        "extraEnv": [{"name": "EXTRA", "value": "1"}],
        "extraEnvFrom": [{"secretRef": {"name": "mine"}}],
        "extraContainers": [{"name": "beside", "image": "beside:1"}],
        "extraVolumes": [{"name": "authority", "configMap": {"name": "authority"}}],
        "extraVolumeMounts": [{"name": "authority", "mountPath": "/etc/authority"}],
    }
    options = [option for name, value in given.items() for option in ("--set-json", f"{component}.{name}={json.dumps(value)}")]

    spec = pod_template(render(helm, *options), component)["spec"]

    assert given["extraEnv"][0] in spec["containers"][0]["env"]
    assert own in [variable["name"] for variable in spec["containers"][0]["env"]]
    assert spec["containers"][0]["envFrom"] == given["extraEnvFrom"]
    assert spec["containers"][1:] == given["extraContainers"]
    assert given["extraVolumes"][0] in spec["volumes"]
    assert given["extraVolumeMounts"][0] in spec["containers"][0]["volumeMounts"]


@pytest.mark.parametrize(
    ("component", "given", "said"),
    [
        ("api", {"extraEnv": [{"name": "TIDEGATE_SEATS", "value": "5"}]}, "api.extraEnv: TIDEGATE_SEATS is there twice"),
        ("api", {"extraEnv": [{"name": "MINE", "value": "1"}, {"name": "MINE", "value": "2"}]}, "api.extraEnv: MINE is there twice"),
        ("api", {"extraVolumes": [{"name": "keys", "emptyDir": {}}]}, "api.extraVolumes: keys is there twice"),
        (
            "operator",
            {"extraVolumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]},
            "operator.extraVolumeMounts: /tmp is there twice",
        ),
        ("operator", {"extraEnv": [{"name": "POD_ID", "value": "me"}]}, "operator.extraEnv: POD_ID is there twice"),
        ("api", {"extraContainers": [{"name": "api", "image": "other:1"}]}, "api.extraContainers: api is there twice"),
    ],
)
def test_what_the_chart_sets_itself_is_refused_with_its_name(helm: Helm, component: str, given: Json, said: str) -> None:
    """The API server would refuse it in words of its own merge, when other objects were changed already."""
    assert said in refusal(helm, "--set-json", f"{component}={json.dumps(given)}")


def test_pods_are_spread_over_nodes_and_zones_each_version_by_itself_unless_told_otherwise(helm: Helm, rendered: list[Json]) -> None:
    """Without `matchLabelKeys` the pods that go would count, and the new ones end up on one node; a region of a zone has no others."""
    over_nodes, over_zones = pod_template(rendered, "api")["spec"]["topologySpreadConstraints"]
    pinned = render(helm, "--set", "regions[0].name=frankfurt,regions[0].zone=eu-central-1a")
    own = [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}]
    documents = render(helm, "--set-json", f"api.topologySpreadConstraints={json.dumps(own)}")

    assert (over_nodes["topologyKey"], over_nodes["matchLabelKeys"]) == ("kubernetes.io/hostname", ["pod-template-hash"])
    assert over_zones == over_nodes | {"topologyKey": "topology.kubernetes.io/zone"}
    assert pod_template(pinned, "api")["spec"]["topologySpreadConstraints"] == [over_nodes]
    assert pod_template(documents, "api")["spec"]["topologySpreadConstraints"] == own


def test_secrets_of_registries_are_for_all_pods(helm: Helm) -> None:
    documents = render(helm, "--set", "imagePullSecrets[0].name=registry")

    assert [pod["imagePullSecrets"] for pod in pods(documents)] == [[{"name": "registry"}]] * 8


def test_names_follow_their_overrides(helm: Helm) -> None:
    named = render(helm, "--set", "nameOverride=sluice")
    full = render(helm, "--set", "fullnameOverride=mine")

    assert {document["metadata"]["labels"]["app.kubernetes.io/name"] for document in named} == {"sluice"}
    assert find(named, "Service", "tidegate-sluice")
    assert {document["metadata"]["name"].split("-")[0] for document in full} == {"mine", "ratelimittiers.tidegate.dev"}


def test_a_name_that_yaml_would_take_for_something_else_is_a_text(helm: Helm) -> None:
    documents = render(helm, "--set-string", "nameOverride=on")

    assert {document["metadata"]["labels"]["app.kubernetes.io/name"] for document in documents} == {"on"}


@pytest.mark.parametrize("value", ["nameOverride", "fullnameOverride"])
def test_a_name_that_would_have_to_be_cut_is_refused(helm: Helm, value: str) -> None:
    """With a component and a region, names must stay below 63."""
    assert value in refusal(helm, "--set", f"{value}={'a' * 26}")


def test_every_pod_runs_as_an_account_that_there_is(rendered: list[Json]) -> None:
    """No pod is made for one that is not, and only a controller would notice."""
    made = {document["metadata"]["name"] for document in rendered if document["kind"] == "ServiceAccount"}
    named = {pod.get("serviceAccountName", "default") for pod in pods(rendered)}

    assert named - {"default"} == made


def test_service_accounts_are_made_named_and_annotated_as_told(helm: Helm, rendered: list[Json]) -> None:
    role = "api.serviceAccount.annotations.role=reader"
    made = render(helm, "--set", f"api.serviceAccount.name=workers,{role},operator.serviceAccount.create=false")
    accounts = [document for document in made if document["kind"] == "ServiceAccount"]

    assert [account["metadata"]["name"] for account in accounts] == ["workers"]
    assert accounts[0]["metadata"]["annotations"] == {"role": "reader"}
    assert pod_template(made, "api")["spec"]["serviceAccountName"] == "workers"
    assert pod_template(made, "operator")["spec"]["serviceAccountName"] == "default"
    assert find(made, "RoleBinding", "tidegate-operator")["subjects"][0]["name"] == "default"
    assert find(rendered, "RoleBinding", "tidegate-operator")["subjects"][0]["name"] == "tidegate-operator"
    assert not any(account["automountServiceAccountToken"] for account in rendered if account["kind"] == "ServiceAccount")


@pytest.mark.parametrize(
    "values",
    [
        "api.serviceAccount.name=same,operator.serviceAccount.name=same",
        "api.serviceAccount.create=false,operator.serviceAccount.create=false",
    ],
)
def test_workers_never_get_the_rights_of_the_operator(helm: Helm, values: str) -> None:
    """Not by an account that both have, be it the namespace's own."""
    assert "so that workers could do what the operator may; name two" in refusal(helm, "--set", values)


def test_objects_of_ones_own_are_maps_or_texts_with_templates_in_them(helm: Helm) -> None:
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-map"}, "data": {"a": "b"}}
    text = yaml.safe_dump({**settings, "metadata": {"name": '{{ include "tidegate.fullname" . }}-text'}})

    documents = render(helm, "--set-json", f"extraObjects={json.dumps([settings, text])}")

    assert find(documents, "ConfigMap", "tidegate-map")["data"] == {"a": "b"}
    assert find(documents, "ConfigMap", "tidegate-text")["data"] == {"a": "b"}


def test_former_versions_are_kept_as_told(helm: Helm) -> None:
    documents = render(helm, "--set", "revisionHistoryLimit=2")

    assert [document["spec"]["revisionHistoryLimit"] for document in documents if document["kind"] == "Deployment"] == [2, 2, 2]


def test_a_platform_that_chooses_accounts_is_given_none(helm: Helm) -> None:
    """OpenShift refuses pods whose users it has not chosen; they must not be root all the same."""
    documents = render(helm, "--set", "runAsUser=0,edge.enabled=true")
    found = [template["spec"]["securityContext"] for template in templates(documents)]

    assert len(found) > 8
    assert all(context == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}} for context in found)
