"""The chart as `helm template` renders it: secure by default, closed, and in step with the code."""

import base64
import hashlib
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.rendering import CHART, ROOT, Helm, Json, find, pods, refusal, render, templates

from tidegate.contract.tier import Tier
from tidegate.settings import PREFIX, Settings
from tidegate_operator.lane_objects import RULES
from tidegate_operator.lane_site import LaneSite
from tidegate_operator.settings import PREFIX as OPERATOR_PREFIX
from tidegate_operator.settings import Settings as OperatorSettings


def test_the_chart_lints_strictly(helm: Helm) -> None:
    assert helm("lint", "--strict", str(CHART)).returncode == 0


def test_every_pod_meets_the_restricted_standard(rendered: list[Json]) -> None:
    """API8: non-root, read-only root, no capabilities, seccomp, no privilege escalation."""
    checked = 0
    for pod in pods(rendered):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] >= 10000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["enableServiceLinks"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= container["resources"].keys()
            checked += 1

    assert checked == 8


def test_only_the_operator_holds_a_service_account_token(rendered: list[Json]) -> None:
    with_token = [pod["containers"][0]["name"] for pod in pods(rendered) if pod.get("automountServiceAccountToken", True)]

    assert with_token == ["operator"]


def test_the_operator_is_known_by_the_name_of_its_pod(rendered: list[Json]) -> None:
    """kopf would ask for the user's name else, and end where the user is a number without one: in every pod."""
    (container,) = find(rendered, "Deployment", "tidegate-operator")["spec"]["template"]["spec"]["containers"]

    assert {"name": "POD_ID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}} in container["env"]


def test_the_operator_may_wait_half_an_hour_for_its_definition(rendered: list[Json]) -> None:
    """It does not answer while it waits; restarts with longer and longer pauses would make it miss the definition's coming."""
    (container,) = find(rendered, "Deployment", "tidegate-operator")["spec"]["template"]["spec"]["containers"]

    assert container["startupProbe"]["periodSeconds"] * container["startupProbe"]["failureThreshold"] >= 1800


def test_one_operator_is_replaced_before_the_next_begins_and_has_no_lease(rendered: list[Json]) -> None:
    operator = find(rendered, "Deployment", "tidegate-operator")["spec"]
    (container,) = operator["template"]["spec"]["containers"]

    assert (operator["replicas"], operator["strategy"]) == (1, {"type": "Recreate"})
    assert "TIDEGATE_OPERATOR_LEASE" not in {entry["name"] for entry in container["env"]}
    assert "leases" not in str(find(rendered, "Role", "tidegate-operator"))


def test_two_operators_share_a_lease_that_they_alone_may_renew(helm: Helm) -> None:
    rendered = render(helm, "--set", "operator.replicas=2")
    operator = find(rendered, "Deployment", "tidegate-operator")["spec"]
    (container,) = operator["template"]["spec"]["containers"]
    rules = [rule for rule in find(rendered, "Role", "tidegate-operator")["rules"] if rule["resources"] == ["leases"]]

    assert (operator["replicas"], operator["strategy"]["type"]) == (2, "RollingUpdate")
    # Or a node or a zone that is lost would take both.
    spread = [rule["topologyKey"] for rule in operator["template"]["spec"]["topologySpreadConstraints"]]
    assert spread == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert {"name": "TIDEGATE_OPERATOR_LEASE", "value": "tidegate-operator"} in container["env"]
    assert [(rule["verbs"], rule.get("resourceNames")) for rule in rules] == [(["create"], None), (["get", "patch"], ["tidegate-operator"])]


def test_no_secret_is_plain_in_a_pod(rendered: list[Json]) -> None:
    secret = find(rendered, "Secret", "tidegate-redis")
    values = [base64.b64decode(value).decode() for key, value in secret["data"].items() if key.endswith(("password", "url"))]
    specs = json.dumps([document for document in rendered if document["kind"] != "Secret"])

    assert len(values) == 12
    assert not [value for value in values if value in specs]


def test_keys_differ_from_one_another_and_from_install_to_install(helm: Helm, rendered: list[Json]) -> None:
    """There is no default secret."""
    first, second = (find(documents, "Secret", "tidegate-keys")["data"] for documents in (rendered, render(helm)))

    assert len({*first.values(), *second.values()}) == 8


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("replicas=3", "replicas"),
        ("api.replcas=3", "replcas"),
        ("regions[0].nam=x", "nam"),
        ("api.logLevel=loud", "logLevel"),
        ("api.replicas=0", "replicas"),
        ("operator.replicas=0", "replicas"),
        ("regions[0].name=Frankfurt", "name"),
        ("api.workers=null", "workers"),
        ("redis.maxMemory=null", "maxMemory"),
        ("api.image=null", "image"),
        ("limits.shards=0", "shards"),
        ("cache.dedicated.cpu=much", "cpu"),
        ("cache.dedicated.memory=1Gi", "memory"),
        ("cache.shared.maxMemory=64Mi", "maxMemory"),
        ("limits.shards=257", "shards"),
        ("limits=null", "limits"),
        ("api.seats=0", "seats"),
        ("api.minimumSeats=-1", "minimumSeats"),
        ("api.defaultTierPercent=51", "defaultTierPercent"),
        ("redis.passwordSeed=short", "passwordSeed"),
        ("keys.rotating={idempotency}", "rotating"),
    ],
)
def test_a_wrong_value_is_refused_by_the_schema(helm: Helm, setting: str, named: str) -> None:
    assert named in refusal(helm, "--set", setting)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("redis.maxMemory=1gb", "redis.resources.limits.memory: 256Mi is too little for redis.maxMemory, 1gb"),
        (
            "redis.maxMemory=200mb,store.resources.limits.memory=399Mi",
            "store.resources.limits.memory: 399Mi is too little for redis.maxMemory",
        ),
        ("redis.maxMemory=200mb,store.resources.limits.memory=399Mi", "set 400Mi or more"),
        ("redis.resources.limits.memory=160M", "160M is too little for redis.maxMemory, 160mb"),
        ("redis.resources.limits.memory=160000000", "160000000 is too little for redis.maxMemory, 160mb"),
        ("cache.shared.maxMemory=100mb", "cache.shared.resources.limits.memory: 128Mi is too little for cache.shared.maxMemory, 100mb"),
        ("api.minimumSeats=101", "api.minimumSeats: 101 is more than api.seats, 100"),
        (
            "redis.maxMemory=500mb,redis.resources.limits.memory=2Gi,store.resources.limits.memory=2Gi",
            "store.size: 1Gi is too little for redis.maxMemory, 500mb",
        ),
        (
            "redis.maxMemory=500mb,redis.resources.limits.memory=2Gi,store.resources.limits.memory=2Gi,store.size=1499Mi",
            "tidegate-store, and the server would end; 1500Mi",
        ),
        ("payments.url=https://provider:65536", "payments.url: port 65536 is none; 1 to 65535 are"),
        ("payments.url=https://provider:0", "payments.url: port 0 is none"),
    ],
)
def test_what_would_end_pods_later_is_refused_with_a_sentence(helm: Helm, values: str, said: str) -> None:
    assert said in refusal(helm, "--set", values)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("payments.url=https://user:hidden@provider", "payments.url: an address is https://host or http://host:port"),
        ("payments.url=ftp://hidden", "payments.url: an address is https://host or http://host:port"),
        ("payments.url=https://provider:hidden", "payments.url: an address is https://host or http://host:port"),
        ("payments.url=https://provider/hidden", "payments.url: an address is https://host or http://host:port"),
        ("redis.passwordSeed=hidden", "'/redis/passwordSeed': minLength: got 6, want 32"),
    ],
)
def test_a_refusal_shows_no_secret(helm: Helm, value: str, said: str) -> None:
    """It ends up in the log of whatever installs; a wrong secret is mostly a right one in the wrong place."""
    result = helm("template", "tidegate", str(CHART), "--set", value)

    assert result.returncode != 0
    assert said in result.stderr
    assert "hidden" not in result.stderr


@pytest.mark.parametrize("limit", ["null", "200Mi", "0.5Gi", "1e9", "1G", "268435456"])
def test_a_server_whose_limit_is_above_its_data_or_unknown_is_rendered(helm: Helm, limit: str) -> None:
    assert render(helm, "--set", f"redis.maxMemory=160mb,redis.resources.limits.memory={limit}")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("jwks.json", "tokens.jwks: no key set"),
        ("[]", "tokens.jwks: no key set"),
        ("{}", "tokens.jwks: no key set"),
        ('{"keys": "none"}', "tokens.jwks: no key set"),
        ('{"keys": [{"kty": "EC", "crv": "P-256", "x": "x", "y": "y", "d": "private"}]}', "tokens.jwks: it holds more than public keys"),
        ('{"keys": [{"kty": "oct", "k": "secret"}]}', "tokens.jwks: it holds more than public keys"),
    ],
)
def test_what_is_no_public_key_set_is_refused_without_being_shown(helm: Helm, tmp_path: Path, keys: str, said: str) -> None:
    """The text of a file may be passed by mistake, and a private key end up where many may read it."""
    (tmp_path / "jwks.json").write_text(keys)

    said_by_helm = refusal(helm, "--set-file", f"tokens.jwks={tmp_path / 'jwks.json'}")

    assert said in said_by_helm
    assert "private" not in said_by_helm
    assert "secret" not in said_by_helm


def test_cores_may_be_written_as_fractions(helm: Helm) -> None:
    pod = find(render(helm, "--set-json", 'api.resources={"requests": {"cpu": 0.5}}'), "Deployment", "tidegate-api-dublin")

    assert pod["spec"]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"] == 0.5


def test_two_regions_of_one_name_are_refused_with_a_sentence(helm: Helm) -> None:
    assert "named twice; give each region a name of its own" in refusal(helm, "--set", "regions[0].name=dublin,regions[1].name=dublin")


def test_a_bundled_server_without_a_version_is_refused_with_a_sentence(helm: Helm) -> None:
    """The chart's own version, which our images fall back on, is none of Valkey's."""
    digest = render(helm, "--set", f"redis.image.tag=,redis.image.digest=sha256:{'0' * 64}")

    assert "redis.image: set tag or digest" in refusal(helm, "--set", "redis.image.tag=")
    assert "valkey/valkey@sha256:0000" in json.dumps(digest)


def test_every_value_has_a_reader() -> None:
    """A value that no template reads is a lie to whoever sets it; neither a comment nor the notes read one."""
    comment = re.compile(r"(?s:\{\{-? */\*.*?\*/ *-?\}\})|(?:^| )#.*$", re.MULTILINE)
    files = [comment.sub("", path.read_text()) for path in (CHART / "templates").rglob("*.*") if path.suffix != ".txt"]
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    for path in leaves(values, ()):
        is_read = any(re.search(rf"\.Values\.{re.escape('.'.join(path))}\b", file) for file in files)
        assert is_read or is_read_by_a_helper(path, files), ".".join(path)


def test_every_value_is_explained_in_the_readme() -> None:
    """`make check` holds the file to the comments in the values."""
    rows = dict(re.findall(r"^\| `([\w.]+)` \| `[^|]*` \| (.*) \|$", (CHART / "README.md").read_text(), re.MULTILINE))
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    assert {".".join(path) for path in leaves(values, ())} == rows.keys()
    assert [name for name, text in rows.items() if not text.endswith((".", ")"))] == []


def leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Paths of the values that are no maps, or maps whose content Kubernetes decides about."""
    if isinstance(value, dict) and value and path[-1:] not in (("resources",), ("labels",)):
        for key, child in value.items():
            yield from leaves(child, (*path, key))
    else:
        yield path


def is_read_by_a_helper(path: tuple[str, ...], files: list[str]) -> bool:
    """Whether a template hands the values above this one to a helper that reads it."""
    (helpers,) = (file for file in files if 'define "tidegate.name"' in file)
    bodies = dict(re.findall(r'\{\{- define "([\w.]+)" -\}\}(.*?)(?=\{\{- define|\Z)', helpers, re.DOTALL))
    for depth in range(1, len(path)):
        above, below = re.escape(".".join(path[:depth])), re.escape(".".join(path[depth:]))
        for file in files:
            called = re.findall(rf'include "([\w.]+)" \(list \$ \$?\.Values\.{above}\)', file)
            if re.search(rf'"values" \$?\.Values\.{above}\b(?!\.)', file):
                called += re.findall(r'include "([\w.]+)"', file)
            if any(re.search(rf"(\.values|\$values|\$image)\.{below}\b", bodies.get(name, "")) for name in called):
                return True
    return False


def test_the_definition_in_the_chart_is_the_one_source(rendered: list[Json]) -> None:
    source = yaml.safe_load((CHART / "files/ratelimittiers.yaml").read_text())
    shown = find(rendered, "CustomResourceDefinition", "ratelimittiers.tidegate.dev")

    assert shown["spec"] == source["spec"]
    assert shown["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_a_catalogue_of_charts_is_told_of_the_definition_as_it_is() -> None:
    """Artifact Hub reads annotations; the example is a tier that workers take."""
    annotations = yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]
    source = yaml.safe_load((CHART / "files/ratelimittiers.yaml").read_text())
    (told,) = yaml.safe_load(annotations["artifacthub.io/crds"])
    (example,) = yaml.safe_load(annotations["artifacthub.io/crdsExamples"])

    assert (told["kind"], told["name"]) == (source["spec"]["names"]["kind"], source["metadata"]["name"])
    assert [told["version"]] == [version["name"] for version in source["spec"]["versions"] if version["storage"]]
    assert (example["kind"], example["apiVersion"]) == (told["kind"], f"{source['spec']['group']}/{told['version']}")
    assert Tier.from_spec(example["metadata"]["name"], example["spec"])


def test_the_definition_can_be_left_out_or_let_go(helm: Helm) -> None:
    without = render(helm, "--set", "crds.enabled=false")
    let_go = render(helm, "--set", "crds.keep=false")

    assert not [document for document in without if document["kind"] == "CustomResourceDefinition"]
    annotations = find(let_go, "CustomResourceDefinition", "ratelimittiers.tidegate.dev")["metadata"].get("annotations") or {}
    assert "helm.sh/resource-policy" not in annotations


def test_the_operator_may_do_what_it_needs_and_nothing_else(rendered: list[Json]) -> None:
    rules = find(rendered, "Role", "tidegate-operator")["rules"]

    assert [(rule["resources"], rule["verbs"]) for rule in rules] == [
        (["ratelimittiers"], ["list", "watch"]),
        (["ratelimittiers/status"], ["patch"]),
        (["statefulsets"], ["list", "watch", "create", "patch", "delete"]),
        (["secrets", "services"], ["create", "patch", "delete"]),
        (["networkpolicies"], ["create", "patch", "delete"]),
    ]
    assert not [document for document in rendered if document["kind"].startswith("ClusterRole")]


def test_every_variable_that_pods_get_is_a_setting(rendered: list[Json]) -> None:
    names = {entry["name"] for pod in pods(rendered) for container in pod["containers"] for entry in container.get("env", [])}
    settings = {PREFIX + field.upper() for field in Settings.__struct_fields__}
    operator_settings = {OPERATOR_PREFIX + field.upper() for field in OperatorSettings.__struct_fields__}

    assert names
    # The name of the pod, which the libraries and programs in it ask for.
    assert names - settings - operator_settings == {"POD_ID"}


@pytest.mark.parametrize(
    ("values", "ports"), [("", [9100, 9101]), ("api.workers=3,api.metricsPort=9500", [9500, 9501, 9502]), ("api.metricsPort=0", [])]
)
def test_each_worker_has_a_port_for_metrics_that_no_service_names(helm: Helm, values: str, ports: list[int]) -> None:
    documents = render(helm, *(["--set", values] if values else []))
    (container,) = find(documents, "Deployment", "tidegate-api-frankfurt")["spec"]["template"]["spec"]["containers"]
    services = [port for document in documents if document["kind"] == "Service" for port in document["spec"]["ports"]]

    shown = [port for port in container["ports"] if port["name"] != "http"]
    assert shown == [{"name": f"metrics-{number}", "containerPort": port} for number, port in enumerate(ports, 1)]
    assert {"name": "TIDEGATE_METRICS_PORT", "value": str(ports[0] if ports else 0)} in container["env"]
    assert {port["targetPort"] for port in services} == {"http", "redis"}


def test_metrics_cannot_take_the_port_of_the_api(helm: Helm) -> None:
    assert helm("template", "tidegate", str(CHART), "--set", "api.metricsPort=8000").returncode != 0


def test_selectors_carry_no_version_and_match_their_pods(rendered: list[Json]) -> None:
    for document in rendered:
        if document["kind"] in ("Deployment", "StatefulSet"):
            selector = document["spec"]["selector"]["matchLabels"]
            assert selector.items() <= document["spec"]["template"]["metadata"]["labels"].items()
            assert not [label for label in selector if "version" in label or "chart" in label]


def test_existing_secrets_replace_everything_that_would_be_made(helm: Helm) -> None:
    own = "keys.existingSecret=mine,redis.existingSecret=servers,cache.existingSecret=lanes,tokens.existingConfigMap=jwks"
    documents = render(helm, "--set", own)

    kinds = [document["kind"] for document in documents]
    assert "Secret" not in kinds
    assert "StatefulSet" not in kinds
    assert "ConfigMap" not in kinds
    api = next(pods(documents))
    assert {"name": "keys", "secret": {"secretName": "mine"}} in api["volumes"]


def test_names_of_digits_stay_names(helm: Helm) -> None:
    """`123` is a valid name of a Secret, a ConfigMap or a class, and to YAML a number."""
    own = render(helm, "--set-string", "keys.existingSecret=1,redis.existingSecret=2,tokens.existingConfigMap=3,cache.existingSecret=5")
    store = find(render(helm, "--set-string", "store.storageClassName=4"), "StatefulSet", "tidegate-store")

    volumes = [volume for pod in pods(own) for volume in pod["volumes"]]
    mounted = [volume.get("secret", {}).get("secretName") or volume.get("configMap", {}).get("name") for volume in volumes]
    variables = [
        variable for pod in pods(own) for variable in pod["containers"][0]["env"] if "secretKeyRef" in variable.get("valueFrom", {})
    ]
    assert {name for name in mounted if name} == {"1", "2", "3"}
    assert {variable["valueFrom"]["secretKeyRef"]["name"] for variable in variables} == {"2", "5"}
    assert store["spec"]["volumeClaimTemplates"][0]["spec"]["storageClassName"] == "4"


def test_long_and_dotted_release_names_stay_apart_and_valid(helm: Helm) -> None:
    """Cut names must not collide, and dots are not allowed in a Service's name."""
    releases = ("customer-platform-prod-tidegate-eu", "customer-platform-prod-tidegate-us", "my.release", "tidegate")
    names = []
    for release in releases:
        result = helm("template", release, str(CHART))
        assert result.returncode == 0, result.stderr
        documents = [document for document in yaml.safe_load_all(result.stdout) if document]
        services = [document["metadata"]["name"] for document in documents if document["kind"] == "Service"]
        assert all(re.fullmatch(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", name) for name in services)
        names += services

    assert len(set(names)) == len(names)


def test_a_release_that_no_service_can_be_named_after_is_refused_with_a_sentence(helm: Helm) -> None:
    """Helm takes `1st`; a cluster refuses half of what is made for it."""
    result = helm("template", "1st", str(CHART))

    assert result.returncode != 0
    assert 'release name "1st" begins with a digit' in result.stderr
    assert helm("template", "1st", str(CHART), "--set", "fullnameOverride=first").returncode == 0


def test_passwords_from_a_seed_are_the_same_at_every_rendering(helm: Helm) -> None:
    """Where charts are only rendered, nothing can be looked up, and random passwords would change under running servers."""
    seed = "keys.existingSecret=keys,redis.passwordSeed=0123456789abcdef0123456789abcdef"
    first, second = (find(render(helm, "--set", seed), "Secret", "tidegate-redis")["data"] for _ in range(2))

    assert first == second
    assert len({value for key, value in first.items() if key.endswith(".password")}) == 7


def test_a_seed_without_keys_of_ones_own_is_refused(helm: Helm) -> None:
    """Keys that are others at each rendering forget, at each, what was done for whom."""
    said = refusal(helm, "--set", "redis.passwordSeed=0123456789abcdef0123456789abcdef")

    assert "keys.existingSecret: redis.passwordSeed is for where charts are only rendered" in said


def test_another_seed_restarts_every_pod(helm: Helm) -> None:
    """Servers and clients read their passwords once, at start."""
    seeds = (
        "keys.existingSecret=keys,redis.passwordSeed=0123456789abcdef0123456789abcdef",
        "keys.existingSecret=keys,redis.passwordSeed=fedcba9876543210fedcba9876543210",
    )
    first, again, second = (list(templates(render(helm, "--set", seed))) for seed in (seeds[0], *seeds))

    assert first == again
    assert len(first) == 8
    assert all(before != after for before, after in zip(first, second, strict=True))


@pytest.mark.parametrize(
    ("values", "variable", "value"),
    [
        ("limits.shards=24", "TIDEGATE_LIMITS_SHARDS", "24"),
        ("api.seats=24", "TIDEGATE_SEATS", "24"),
        ("api.minimumSeats=4", "TIDEGATE_MINIMUM_SEATS", "4"),
        ("api.defaultTierPercent=20", "TIDEGATE_DEFAULT_TIER_PERCENT", "20"),
        ("keys.rotating={identity,result}", "TIDEGATE_OTHER_IDENTITY_KEY_FILE", "/etc/tidegate/keys/identity.other.key"),
        ("keys.rotating={identity,result}", "TIDEGATE_OTHER_RESULT_KEY_FILE", "/etc/tidegate/keys/result.other.key"),
        ("payments.url=https://provider", "TIDEGATE_PAYMENTS_URL", "https://provider"),
    ],
)
def test_every_worker_of_every_region_is_told_the_same(helm: Helm, rendered: list[Json], values: str, variable: str, value: str) -> None:
    """Workers that disagree would count one customer twice, or not read one another's results."""
    assert _told(render(helm, "--set", values), variable) == [value, value]
    assert value not in _told(rendered, variable)


def _told(documents: list[Json], variable: str) -> list[str]:
    return [
        entry["value"]
        for document in documents
        if document["kind"] == "Deployment"
        for container in document["spec"]["template"]["spec"]["containers"]
        for entry in container.get("env", ())
        if entry["name"] == variable
    ]


def test_a_zone_pins_a_region(helm: Helm) -> None:
    documents = render(helm, "--set", "regions[0].name=frankfurt,regions[0].zone=eu-1,regions[1].name=dublin")
    pinned = find(documents, "Deployment", "tidegate-api-frankfurt")["spec"]["template"]["spec"]

    assert pinned["nodeSelector"] == {"topology.kubernetes.io/zone": "eu-1"}
    assert "nodeSelector" not in find(documents, "Deployment", "tidegate-api-dublin")["spec"]["template"]["spec"]


def test_images_hold_no_build_tool_and_run_as_nobody() -> None:
    """The Dockerfile's final stages; the images themselves need an engine."""
    text = (ROOT / "Dockerfile").read_text()
    final = text[text.index("AS base") : text.index("FROM api AS api-dev")]

    assert "USER 10001:10001" in final
    assert re.findall(r"^FROM base AS (\w+)$", final, re.MULTILINE) == ["operator", "api"]
    assert not re.search(r"^RUN .*(apt|install)\b", final.replace("uninstall", ""), re.MULTILINE)


def test_what_an_image_is_made_of_is_pinned() -> None:
    """Each installation checks the hashes of a lock file, or takes the wheel that was just made, which a pinned builder made."""
    installations = re.findall(r"^RUN pip .*\binstall\b.*$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert len(installations) == 5
    assert all("--require-hashes" in line or "--no-deps" in line for line in installations)
    assert project["dependency-groups"]["build"] == project["build-system"]["requires"]


def test_each_region_gets_the_url_of_its_own_shared_lane(helm: Helm, rendered: list[Json]) -> None:
    """From a Secret, as it holds a password: that of the servers that are installed, or one's own; or there is no lane."""

    def urls(objects: list[Json]) -> dict[str, Json]:
        deployments = [found for found in objects if found["kind"] == "Deployment" and "-api-" in found["metadata"]["name"]]
        variables = {found["metadata"]["name"]: found["spec"]["template"]["spec"]["containers"][0]["env"] for found in deployments}
        return {name: entry["valueFrom"] for name, env in variables.items() for entry in env if entry["name"] == "TIDEGATE_CACHE_URL"}

    own = render(helm, "--set", "cache.existingSecret=lanes")

    for secret, found in {"tidegate-cache": urls(rendered), "lanes": urls(own)}.items():
        assert len(found) == 2
        for name, source in found.items():
            assert source == {"secretKeyRef": {"name": secret, "key": f"{name.rpartition('-api-')[2]}.url"}}
    assert urls(render(helm, "--set", "cache.shared.enabled=false")) == {}
    assert not [one for one in own if one["kind"] == "StatefulSet" and "-cache-" in one["metadata"]["name"]]


def test_a_shared_lane_that_is_installed_evicts_and_opens_to_its_user_alone(rendered: list[Json]) -> None:
    """The Service of the URL, and the rules of a dedicated lane's user; the server has a hash of the password."""
    secret = {key: base64.b64decode(value).decode() for key, value in find(rendered, "Secret", "tidegate-cache")["data"].items()}
    pod = find(rendered, "StatefulSet", "tidegate-cache-dublin")["spec"]["template"]["spec"]
    (container,) = pod["containers"]

    password = secret["cache.dublin.password"]
    assert secret["dublin.url"] == f"redis://tidegate-lane:{password}@tidegate-cache-dublin:6379"
    assert secret["dublin.conf"] == (
        f"user default reset\nuser tidegate-lane reset on #{hashlib.sha256(password.encode()).hexdigest()} {RULES}\n"
    )
    assert password != secret["cache.frankfurt.password"]
    assert container["args"][-4:] == ["--maxmemory-policy", "allkeys-lfu", "--maxmemory", "64mb"]
    assert container["resources"]["requests"]["memory"] == container["resources"]["limits"]["memory"]


def test_the_purge_of_the_docs_reaches_the_workers_of_every_region(rendered: list[Json]) -> None:
    """One command: its selector finds a Deployment of each region, whose pod knows the lanes of its own, and nothing else."""
    (selector,) = re.findall(r"kubectl get deployment .*--selector (\S+)", (ROOT / "docs/cache.md").read_text())
    wanted = dict(label.split("=") for label in selector.split(","))
    found = [
        document["spec"]["template"]
        for document in rendered
        if document["kind"] == "Deployment" and wanted.items() <= document["metadata"]["labels"].items()
    ]

    environments = [{entry["name"]: entry.get("value") for entry in template["spec"]["containers"][0]["env"]} for template in found]
    assert [environment["TIDEGATE_REGION"] for environment in environments] == ["frankfurt", "dublin"]
    for environment in environments:
        assert {"TIDEGATE_REDIS_URL", "TIDEGATE_IDEMPOTENCY_KEY_FILE", "TIDEGATE_TOKEN_ISSUER"} <= environment.keys()


def lane_site(documents: list[Json]) -> Json:
    """What the operator is told of dedicated lanes; empty if nothing."""
    (container,) = find(documents, "Deployment", "tidegate-operator")["spec"]["template"]["spec"]["containers"]
    texts = [entry["value"] for entry in container["env"] if entry["name"] == "TIDEGATE_OPERATOR_LANES"]
    return dict(json.loads(texts[0])) if texts else {}


def test_the_operator_is_told_where_lanes_are_made_and_of_what(helm: Helm) -> None:
    """In the regions of this release, where their pods are, under the same security, and reached from their API pods alone."""
    values = "regions[0].name=no,regions[0].zone=eu-1,regions[1].name=dublin,cache.dedicated.cpu=200m"
    values += ",imagePullSecrets[0].name=registry,cache.tolerations[0].key=memory"
    documents = render(helm, "--set", values)
    site, api = lane_site(documents), find(documents, "Deployment", "tidegate-api-no")["spec"]
    neighbour = find(documents, "StatefulSet", "tidegate-redis-no")["spec"]["template"]["spec"]

    assert LaneSite.read(json.dumps(site), source="").regions.keys() == {"no", "dublin"}
    assert site["regions"]["no"]["clients"] == api["selector"]["matchLabels"]
    assert site["regions"]["no"]["pod"] == {
        "securityContext": neighbour["securityContext"],
        "nodeSelector": {"topology.kubernetes.io/zone": "eu-1"},
        "imagePullSecrets": [{"name": "registry"}],
        "tolerations": [{"key": "memory"}],
    }
    assert "nodeSelector" not in site["regions"]["dublin"]["pod"]
    shared = find(documents, "StatefulSet", "tidegate-cache-no")["spec"]["template"]["spec"]
    assert {name: shared[name] for name in ("imagePullSecrets", "tolerations")}.items() <= site["regions"]["no"]["pod"].items()
    assert site["container"] == {
        "image": "valkey/valkey:9.1",
        "imagePullPolicy": "IfNotPresent",
        "resources": {"requests": {"cpu": "200m"}},
        "securityContext": neighbour["containers"][0]["securityContext"],
    }


def test_operator_and_workers_derive_passwords_of_lanes_from_the_same_key(rendered: list[Json]) -> None:
    """And the operator gets no other one."""
    operator = find(rendered, "Deployment", "tidegate-operator")["spec"]["template"]["spec"]
    (keys,) = (volume["secret"] for volume in operator["volumes"] if volume["name"] == "keys")

    assert _told(rendered, "TIDEGATE_LANE_KEY_FILE") == ["/etc/tidegate/keys/lane.key"] * 2
    assert _told(rendered, "TIDEGATE_OPERATOR_LANE_KEY_FILE") == ["/etc/tidegate/keys/lane.key"]
    assert keys == {"secretName": "tidegate-keys", "items": [{"key": "lane.key", "path": "lane.key"}]}
    assert "lane.key" in find(rendered, "Secret", "tidegate-keys")["data"]


def test_an_operator_that_is_to_make_no_lanes_has_no_right_to_and_no_key(helm: Helm) -> None:
    documents = render(helm, "--set", "cache.dedicated.enabled=false")

    assert lane_site(documents) == {}
    assert _told(documents, "TIDEGATE_LANE_KEY_FILE") == []
    assert {name for rule in find(documents, "Role", "tidegate-operator")["rules"] for name in rule["resources"]} == {
        "ratelimittiers",
        "ratelimittiers/status",
    }
    assert "tidegate-keys" not in json.dumps(find(documents, "Deployment", "tidegate-operator"))
