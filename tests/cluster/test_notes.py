"""What the chart's notes say to whoever has installed it, and the release's own test; what installs is pasted by `notes.py`."""

import re
from collections.abc import Iterator

import pytest
from tests.cluster.notes import commands, paste, terminal
from tests.cluster.release import Release
from tests.kube.processes import Program

URLS = ("http://tidegate-api-frankfurt", "http://tidegate-api-dublin", "http://tidegate:80")
SECRET = "test-token"


@pytest.fixture
def tested(release: Release) -> Iterator[Release]:
    """The release, which finds a token for its test in a Secret that is yet to be made."""
    release.helm.upgrade("--reset-then-reuse-values", "--set", f"test.existingSecret={SECRET}")
    yield release
    release.kubectl("delete", "secret", SECRET, "--ignore-not-found")
    release.helm.upgrade("--reset-then-reuse-values", "--set", "test.existingSecret=")


def give(release: Release, token: str) -> None:
    """Make the Secret, as the notes say."""
    release.kubectl("create", "secret", "generic", SECRET, f"--from-literal=token={token}")


def test_the_release_passes_its_own_test_with_the_token_of_a_small_tier(tested: Release) -> None:
    """From a pod under restricted pod security: the tier is enforced, a purchase made once, and one request too many refused."""
    give(tested, tested.token("free", tenant="tester"))
    (command,) = commands(tested.helm.notes(), "helm test")

    said = paste(tested, command)

    assert [url for url in URLS if f"ok  {url} enforces the tier free" in said] == list(URLS)
    assert f"ok  a purchase was made once and replayed {len(URLS)} times" in said
    assert re.search(rf"ok  {URLS[0]} answered \d+ requests, and then 429 with Retry-After: [1-9]", said)


def test_the_release_fails_its_own_test_with_a_sentence_where_it_does_not_serve(tested: Release) -> None:
    """As for a token that it has no reason to trust."""
    give(tested, "a.stranger's.token")

    said = tested.helm.test(passes=False)

    assert f"tidegate: expected: {URLS[0]} takes the token; heard: 401" in said


def test_the_commands_of_the_notes_reach_the_api_and_show_the_lanes(release: Release) -> None:
    """As they are, without a change."""
    notes = release.helm.notes()
    forward, ask, tiers, lanes = commands(
        notes, "kubectl port-forward", "curl", r"kubectl get rlt --namespace \S+ --output wide", "kubectl get statefulset"
    )
    release.kubectl("wait", "rlt/enterprise", "--for=condition=LaneReady", "--timeout=50s")
    with Program(forward.split(), release.workspace / "forward.log", terminal(release)) as forwarding:
        forwarding.wait_until(lambda: "Forwarding" in forwarding.last_words(), seconds=20)
        ready = paste(release, ask)

    assert '"status":"ok"' in ready.replace(" ", "")
    assert re.search(r"^enterprise .* 2/2 +True +\S+ +True", paste(release, tiers), re.MULTILINE)
    assert len(re.findall(r"^lane-enterprise-\S+ +1/1", paste(release, lanes), re.MULTILINE)) == 2
