"""The store as the chart renders it: etcd's members over failure domains, what is refused, and what stays as it was."""

import base64
import json
import re
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.chart.rendering import CHART, ROOT, Helm, Json, find, pods, refusal, render
from tests.kube.tools import RECIPES

ETCD = "store.type=Etcd"
ZONES = "store.etcd.failureDomains={eu-central-1a,eu-west-1a,eu-north-1a}"
OWN_CERTIFICATES = "store.etcd.tls.existingSecret=members,store.etcd.tls.existingClientSecret=workers"
LANES = {"tidegate-cache-frankfurt", "tidegate-cache-dublin"}
SEED = "keys.existingSecret=mine,redis.passwordSeed=0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="session")
def etcd(helm: Helm) -> list[Json]:
    """The chart with etcd over three zones."""
    return render(helm, "--set", f"{ETCD},{ZONES}")


def members(documents: list[Json]) -> Json:
    """The StatefulSet of the members."""
    return dict(find(documents, "StatefulSet", "tidegate-store")["spec"])


def flags(documents: list[Json]) -> dict[str, str]:
    """The arguments of a member."""
    (container,) = members(documents)["template"]["spec"]["containers"]
    return dict(argument.removeprefix("--").split("=", 1) for argument in container["args"])


def spread(documents: list[Json]) -> dict[str, Json]:
    """How the members are spread, by topology key."""
    return {each["topologyKey"]: each for each in members(documents)["template"]["spec"]["topologySpreadConstraints"]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("store.etcd.failureDomains={eu-1,eu-2}", "two failure domains cannot be both safe and available"),
        ("store.etcd.failureDomains={eu-1,eu-2}", "name a third for a witness"),
        ("store.etcd.failureDomains={eu-1}", "one failure domain takes all members along; name three"),
        ("store.etcd.failureDomains={eu-1,eu-2,eu-1}", "one is named twice; name each zone once"),
        ("store.etcd.failureDomains={a,b,c,d}", "4 for 3 members; name as many as there are members at most"),
        ("store.etcd.replicas=4", "store.etcd.replicas: 4; three members survive the loss of one"),
        ("store.etcd.replicas=2", "set 3 or 5"),
        ("store.etcd.replicas=1", "set 3 or 5"),
        ("store.etcd.replicas=7", "set 3 or 5"),
        ("store.etcd.tls.existingSecret=members", "set both existingSecret and existingClientSecret or none"),
        ("store.etcd.tls.existingClientSecret=workers", "set both existingSecret and existingClientSecret or none"),
        (SEED, "certificates would be others at each rendering; name your own"),
        ("store.size=512Mi", "store.size: 512Mi; a member of etcd needs 1Gi or more"),
        ("store.etcd.image.tag=", "store.etcd.image: set tag or digest"),
        ("store.etcd.membership=Lost", "membership"),
        ("store.etcd.failureDomains={eu 1,b,c}", "failureDomains"),
    ],
)
def test_members_that_could_not_keep_the_promise_are_refused_with_a_sentence(helm: Helm, values: str, said: str) -> None:
    assert said in refusal(helm, "--set", f"{ETCD},{values}")


@pytest.mark.parametrize("values", [ZONES, f"{ETCD},store.existingSecret=mine,{ZONES}"])
def test_failure_domains_over_which_nothing_is_spread_are_refused(helm: Helm, values: str) -> None:
    """Whoever names them would believe in them."""
    assert "store.etcd.failureDomains: nothing would be spread over them" in refusal(helm, "--set", values)


def test_another_type_of_store_is_refused_by_the_schema(helm: Helm) -> None:
    assert "type" in refusal(helm, "--set", "store.type=Zookeeper")


def test_members_are_spread_over_the_zones_and_never_two_on_a_node(etcd: list[Json]) -> None:
    """`minDomains`: a zone without nodes gives its member to no other zone, which would hold a majority then."""
    (term,) = members(etcd)["template"]["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    zones = ["eu-central-1a", "eu-west-1a", "eu-north-1a"]

    assert term["matchExpressions"] == [{"key": "topology.kubernetes.io/zone", "operator": "In", "values": zones}]
    assert spread(etcd).keys() == {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
    for constraint in spread(etcd).values():
        assert (constraint["maxSkew"], constraint["minDomains"], constraint["whenUnsatisfiable"]) == (1, 3, "DoNotSchedule")
        assert constraint["labelSelector"]["matchLabels"] == members(etcd)["selector"]["matchLabels"]


def test_five_members_over_three_zones_leave_no_zone_a_majority(helm: Helm) -> None:
    """A skew of 1 over three zones: two, two and one."""
    documents = render(helm, "--set", f"{ETCD},{ZONES},store.etcd.replicas=5")

    assert members(documents)["replicas"] == 5
    assert spread(documents)["topology.kubernetes.io/zone"]["minDomains"] == 3
    assert spread(documents)["kubernetes.io/hostname"]["minDomains"] == 5


def test_without_zones_each_member_has_a_node_of_its_own(helm: Helm) -> None:
    documents = render(helm, "--set", ETCD)

    assert spread(documents).keys() == {"kubernetes.io/hostname"}
    assert spread(documents)["kubernetes.io/hostname"]["minDomains"] == 3
    assert "affinity" not in members(documents)["template"]["spec"]


def test_every_pod_meets_the_restricted_standard_with_etcd_too(etcd: list[Json]) -> None:
    (container,) = members(etcd)["template"]["spec"]["containers"]
    pod = members(etcd)["template"]["spec"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {"requests", "limits"} <= container["resources"].keys()


def test_a_member_is_started_without_a_shell(etcd: list[Json]) -> None:
    """The image holds none; the kubelet expands the pod's name."""
    (container,) = members(etcd)["template"]["spec"]["containers"]
    expanded = {variable["name"] for variable in container["env"]}

    assert container["command"] == ["etcd"]
    assert set(re.findall(r"\$\((\w+)\)", " ".join(container["args"]))) == {"POD_NAME"} <= expanded
    assert all(re.fullmatch(r"--[a-z-]+=\S+", argument) for argument in container["args"])


def test_members_and_workers_must_show_certificates(etcd: list[Json]) -> None:
    assert flags(etcd)["client-cert-auth"] == flags(etcd)["peer-client-cert-auth"] == "true"
    assert flags(etcd)["peer-cert-allowed-hostname"] == "tidegate-store"
    assert all(value.startswith("https://") for name, value in flags(etcd).items() if name.endswith("-urls") and "metrics" not in name)


def certificate(documents: list[Json], secret: str) -> x509.Certificate:
    """The certificate in a Secret."""
    return x509.load_pem_x509_certificate(base64.b64decode(find(documents, "Secret", secret)["data"]["tls.crt"]))


def test_certificates_name_every_member_and_no_worker(etcd: list[Json]) -> None:
    """One authority for both, whose key is not kept; ten years, and both ends of a connection."""
    own, client = (certificate(etcd, name) for name in ("tidegate-store-tls", "tidegate-store-client-tls"))
    names = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uses = own.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    held = [find(etcd, "Secret", name) for name in ("tidegate-store-tls", "tidegate-store-client-tls")]

    assert set(names.get_values_for_type(x509.DNSName)) >= {"tidegate-store", *(f"tidegate-store-{i}.tidegate-store" for i in range(5))}
    assert {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH} <= set(uses)
    assert (own.not_valid_after_utc - own.not_valid_before_utc).days >= 3650
    assert own.issuer == client.issuer not in (own.subject, client.subject)
    with pytest.raises(x509.ExtensionNotFound):
        client.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [secret["data"].keys() for secret in held] == [{"ca.crt", "tls.crt", "tls.key"}] * 2
    assert [secret["metadata"]["annotations"]["helm.sh/resource-policy"] for secret in held] == ["keep", "keep"]


def test_certificates_of_two_renderings_share_no_authority(helm: Helm, etcd: list[Json]) -> None:
    """There is no default secret."""
    other = render(helm, "--set", ETCD)

    assert find(etcd, "Secret", "tidegate-store-tls")["data"]["ca.crt"] != find(other, "Secret", "tidegate-store-tls")["data"]["ca.crt"]


def test_workers_get_the_url_and_their_own_certificate_alone(etcd: list[Json]) -> None:
    """With the members' key a worker could pass for one."""
    api = find(etcd, "Deployment", "tidegate-api-dublin")["spec"]["template"]["spec"]
    (container,) = api["containers"]

    assert variable(api, "TIDEGATE_STORE_URL")["value"] == (
        "etcds://tidegate-store-0.tidegate-store:2379,tidegate-store-1.tidegate-store:2379,tidegate-store-2.tidegate-store:2379/"
        "?ca=/etc/tidegate/store/ca.crt&cert=/etc/tidegate/store/tls.crt&key=/etc/tidegate/store/tls.key"
    )
    assert {"name": "store", "mountPath": "/etc/tidegate/store", "readOnly": True} in container["volumeMounts"]
    assert secrets_of(api) == {"tidegate-keys", "tidegate-store-client-tls", "tidegate-redis", "tidegate-cache"}


def variable(pod: Json, name: str) -> Json:
    """A variable of a pod's container."""
    return next(dict(entry) for entry in pod["containers"][0]["env"] if entry["name"] == name)


def secrets_of(node: Any) -> set[str]:
    """Names of the Secrets that a manifest refers to."""
    text = json.dumps(node)
    return set(re.findall(r'"secretName": "([^"]+)"', text)) | set(re.findall(r'"secretKeyRef": \{"name": "([^"]+)"', text))


def test_members_find_one_another_before_they_are_ready(etcd: list[Json]) -> None:
    """None is ready before a majority has found one another, so all must start at once."""
    service = find(etcd, "Service", "tidegate-store")["spec"]

    assert (service["clusterIP"], service["publishNotReadyAddresses"]) == ("None", True)
    assert [port["port"] for port in service["ports"]] == [2379, 2380]
    assert members(etcd)["podManagementPolicy"] == "Parallel"
    assert members(etcd)["serviceName"] == "tidegate-store"


def test_a_drain_takes_one_member_at_a_time(etcd: list[Json]) -> None:
    """And none while another is not ready, which may be all that has the data."""
    budget = find(etcd, "PodDisruptionBudget", "tidegate-store")["spec"]

    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "IfHealthyBudget")
    assert budget["selector"]["matchLabels"] == members(etcd)["selector"]["matchLabels"]


@pytest.mark.parametrize(
    ("size", "quota"), [("1Gi", 256 << 20), ("2048Mi", 768 << 20), ("10Gi", 4864 << 20), ("100Gi", 8 << 30), ("1Ti", 8 << 30)]
)
def test_the_database_and_a_copy_of_it_fit_the_volume_beside_the_log(helm: Helm, size: str, quota: int) -> None:
    documents = render(helm, "--set", f"{ETCD},store.size={size}")
    (claim,) = members(documents)["volumeClaimTemplates"]

    assert claim["spec"]["resources"]["requests"]["storage"] == size
    assert flags(documents)["quota-backend-bytes"] == str(quota)


def test_sizes_are_as_documented(helm: Helm) -> None:
    rows = re.findall(r"^\| `(\d+Gi)`[a-z ]* \| ([\d.]+) ([MG])iB \|", (ROOT / "docs/store.md").read_text(), re.MULTILINE)

    assert len(rows) == 3
    for size, number, unit in rows:
        quota = int(flags(render(helm, "--set", f"{ETCD},store.size={size}"))["quota-backend-bytes"])
        assert quota >> {"M": 20, "G": 10}[unit] == float(number) * {"M": 1, "G": 1 << 20}[unit]


@pytest.mark.parametrize(
    ("membership", "state", "count", "strategy"),
    [("Forming", "new", 3, "RollingUpdate"), ("Formed", "existing", 1, "RollingUpdate"), ("Replacing", "existing", 3, "OnDelete")],
)
def test_membership_decides_what_an_empty_member_does(helm: Helm, membership: str, state: str, count: int, strategy: str) -> None:
    """What each does with real members is in tests/kube/test_store.py."""
    documents = render(helm, "--set", f"{ETCD},store.etcd.membership={membership}")

    assert flags(documents)["initial-cluster-state"] == state
    assert len(flags(documents)["initial-cluster"].split(",")) == count
    assert members(documents)["updateStrategy"] == {"type": strategy}


def test_certificates_of_ones_own_are_used_and_none_is_made(helm: Helm) -> None:
    """With a seed too: nothing random is left then."""
    first, second = (render(helm, "--set", f"{ETCD},{OWN_CERTIFICATES},{SEED}") for _ in range(2))

    assert first == second
    assert {document["metadata"]["name"] for document in first if document["kind"] == "Secret"} == {"tidegate-redis", "tidegate-cache"}
    assert secrets_of(members(first)) == {"members"}
    assert "workers" in secrets_of(find(first, "Deployment", "tidegate-api-dublin"))


def test_a_store_of_ones_own_is_used_and_none_is_installed(helm: Helm) -> None:
    """Its Secret is mounted, for what the URL names; the regions' servers are still installed."""
    documents = render(helm, "--set", "store.existingSecret=mine")
    api = find(documents, "Deployment", "tidegate-api-dublin")["spec"]["template"]["spec"]

    assert variable(api, "TIDEGATE_STORE_URL")["valueFrom"] == {"secretKeyRef": {"name": "mine", "key": "store.url"}}
    assert {"name": "store", "secret": {"secretName": "mine"}} in api["volumes"]
    assert {name for kind, name in names(documents) if kind == "StatefulSet"} == {
        *LANES,
        "tidegate-redis-frankfurt",
        "tidegate-redis-dublin",
    }
    assert not [key for key in find(documents, "Secret", "tidegate-redis")["data"] if key.startswith("store.")]


def names(documents: list[Json]) -> set[tuple[str, str]]:
    """Kind and name of everything."""
    return {(document["kind"], document["metadata"]["name"]) for document in documents}


def test_regions_of_ones_own_go_with_an_installed_etcd(helm: Helm) -> None:
    documents = render(helm, "--set", f"redis.existingSecret=servers,{ETCD}")
    api = find(documents, "Deployment", "tidegate-api-dublin")["spec"]["template"]["spec"]

    assert {name for kind, name in names(documents) if kind == "StatefulSet"} == {*LANES, "tidegate-store"}
    assert variable(api, "TIDEGATE_STORE_URL")["value"].startswith("etcds://")
    assert variable(api, "TIDEGATE_REDIS_URL")["valueFrom"]["secretKeyRef"]["name"] == "servers"


def test_one_secret_for_regions_and_store_is_still_enough(helm: Helm) -> None:
    documents = render(helm, "--set", "redis.existingSecret=servers")
    api = find(documents, "Deployment", "tidegate-api-dublin")["spec"]["template"]["spec"]

    assert variable(api, "TIDEGATE_STORE_URL")["valueFrom"] == {"secretKeyRef": {"name": "servers", "key": "store.url"}}
    assert {name for kind, name in names(documents) if kind == "StatefulSet"} == LANES


def test_with_no_values_the_store_is_one_valkey(rendered: list[Json]) -> None:
    """An installation on a laptop has one node."""
    (container,) = members(rendered)["template"]["spec"]["containers"]

    assert (container["name"], members(rendered)["replicas"]) == ("redis", 1)
    assert not [pod for pod in pods(rendered) if "etcd" in json.dumps(pod)]


def test_the_installed_version_is_the_tested_one() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert values["store"]["etcd"]["image"]["tag"] == f"v{RECIPES['etcd'].version}"
