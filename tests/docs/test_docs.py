"""The documentation keeps up with the code."""

import ast
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from redis.crc import key_slot

from tidegate.admission.measures import OUTCOMES as ADMISSION_OUTCOMES
from tidegate.admission.seats import Seats
from tidegate.cache.measures import OUTCOMES as CACHE_OUTCOMES
from tidegate.cache.measures import CacheMeasures
from tidegate.contract.keys import sharded, usage
from tidegate.idempotency.measures import CLAIM_EVENTS, MutationMeasures
from tidegate.idempotency.measures import OUTCOMES as MUTATION_OUTCOMES
from tidegate.limits.measures import OUTCOMES, Measures
from tidegate.metrics import PlatformMetrics
from tidegate.problems import BASE, INTERNAL, RATE_LIMIT_BASE, REGISTRY
from tidegate.settings import PREFIX, Settings
from tidegate.store.measured import MeasuredStore
from tidegate_operator.settings import PREFIX as OPERATOR_PREFIX
from tidegate_operator.settings import Settings as OperatorSettings

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("settings", "prefix"), [(Settings, PREFIX), (OperatorSettings, OPERATOR_PREFIX)])
def test_settings_and_their_documentation_are_equal(settings: type[Settings | OperatorSettings], prefix: str) -> None:
    """Each setting has a row with its default in docs/settings.md, and each row a setting."""
    rows = dict(re.findall(r"^\| `(TIDEGATE_\w+)` \| (\S+) \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE))
    fields, defaults = settings.__struct_fields__, settings.__struct_defaults__
    shown = ["required"] * (len(fields) - len(defaults)) + [f"`{default}`" if default != "" else "empty" for default in defaults]

    written = {name: default for name, default in rows.items() if name.startswith(OPERATOR_PREFIX) == (prefix == OPERATOR_PREFIX)}

    assert written == {prefix + field.upper(): default for field, default in zip(fields, shown, strict=True)}


def test_problem_types_and_their_documentation_are_equal() -> None:
    """ERR-2: a problem type without a heading, or a heading without a type, fails here."""
    headings = set(re.findall(r"^## (\S+)$", (ROOT / "docs/problems.md").read_text(), re.MULTILINE))
    types = {problem.type.removeprefix(BASE).removeprefix(RATE_LIMIT_BASE) for problem in [*REGISTRY.values(), INTERNAL]}

    assert headings == types


def test_what_is_to_be_pasted_is_complete() -> None:
    """Every block of commands is one that a shell can read to its end."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    blocks = [(page, block) for page in pages for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)]

    assert len(blocks) > 20
    for page, block in blocks:
        read = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, timeout=10, check=False)
        assert read.returncode == 0, f"{page}: {read.stderr}{block}"


def test_each_known_failure_is_named_by_a_test() -> None:
    """Each row of docs/failures.md, but those that cannot happen here; and a test names none that has no row."""
    rows = dict(re.findall(r"^\| ([BW]\d+\w?) \| [^|]* \| ([^|]*) \|$", (ROOT / "docs/failures.md").read_text(), re.MULTILINE))
    named = {failure for text in docstrings_of_tests() for failure in re.findall(r"\b[BW]\d+[a-z]?\b", text)}

    assert named == {failure for failure, here in rows.items() if not here.startswith("cannot happen")}


def docstrings_of_tests() -> Iterator[str]:
    for file in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                yield ast.get_docstring(node) or ""


def test_metrics_and_their_documentation_are_equal() -> None:
    """By name, type and labels; and the values of labels."""
    text = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| `(tidegate_\w+)` \| (\w+) \| ([^|]*)\|", text, re.MULTILINE)
    tiers = SimpleNamespace(unknown_tiers=0, workers=1, snapshot=SimpleNamespace(revision=1, tiers={"free": None}))
    families = list(PlatformMetrics(Measures(), tiers, MutationMeasures(), MeasuredStore(None), Seats(1), CacheMeasures()).collect())
    labels = {family.name: {label for sample in family.samples for label in sample.labels} - {"le"} for family in families}

    written = {name: (kind, set(re.findall(r"`(\w+)`", names))) for name, kind, names in rows}

    assert written == {f.name + ("_total" if f.type == "counter" else ""): (f.type, labels[f.name]) for f in families}
    for heading, expected in [
        ("outcome | the request", OUTCOMES),
        ("outcome | the mutation", MUTATION_OUTCOMES),
        ("event | the claim", CLAIM_EVENTS),
        ("admission | the request", ADMISSION_OUTCOMES),
        ("outcome in a lane | the request", CACHE_OUTCOMES),
    ]:
        table = text.split(f"| {heading} |")[1].split("\n\n")[0]
        assert tuple(re.findall(r"^\| `([a-z_]+)` \| [a-z]", table, re.MULTILINE)) == expected


def test_rooms_are_not_packages() -> None:
    """An `__init__.py` in operator/ would shadow the standard library's module of that name."""
    assert not (ROOT / "app/__init__.py").exists()
    assert not (ROOT / "operator/__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))

    import operator

    assert operator.itemgetter


def test_every_make_verb_of_the_readme_exists() -> None:
    """A newcomer pastes these."""
    verbs = set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text()))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert verbs
    assert verbs <= targets


def test_every_link_between_documents_leads_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_manifest_of_the_documents_can_be_read() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for text in re.findall(r"^```yaml\n(.*?)^```", document.read_text(), re.DOTALL | re.MULTILINE):
            assert all(isinstance(manifest, dict) for manifest in yaml.safe_load_all(text)), document.name


def test_every_threat_names_tests_that_exist() -> None:
    rows = re.findall(r"^\|.*\|$", (ROOT / "SECURITY.md").read_text(), re.MULTILINE)[2:]

    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(tests/[\w/.]+)::(\w+)`", row)
        assert named, row
        for path, name in named:
            assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_lock_files_hold_hashes_and_no_address() -> None:
    """A registry's address in a lock file would send a newcomer to somebody else's mirror."""
    for lock in (ROOT / "requirements").glob("*.txt"):
        text = lock.read_text()
        assert "://" not in text, lock.name
        assert "--hash=sha256:" in text, lock.name
    npm = (ROOT / "bench/peers/node/package-lock.json").read_text()
    assert '"resolved"' not in npm
    assert '"integrity": "sha512-' in npm


def test_the_shards_lie_as_the_documentation_says() -> None:
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([\d, ]+) \|$", (ROOT / "docs/redis.md").read_text(), re.MULTILINE)

    assert rows
    for primaries, shards, said in rows:
        held = Counter(key_slot(usage(sharded("t", shard)).encode()) * int(primaries) // 16_384 for shard in range(int(shards)))
        assert [held[place] for place in range(int(primaries))] == [int(number) for number in said.split(", ")]
