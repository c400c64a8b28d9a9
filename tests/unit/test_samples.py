"""What the repository ships for people to copy."""

from pathlib import Path

import pytest
import yaml

from tidegate.contract.tier import Tier

SAMPLES = Path(__file__).parents[2] / "k8s/tiers"


@pytest.mark.parametrize("path", sorted(SAMPLES.iterdir()), ids=lambda path: path.name)
def test_a_sample_tier_is_valid_and_named_like_its_file(path: Path) -> None:
    manifest = yaml.safe_load(path.read_text())

    assert Tier.from_spec(manifest["metadata"]["name"], manifest["spec"]).name == path.stem
