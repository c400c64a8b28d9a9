"""The tiers that a directory of manifests wants, with the last good content of a broken file; called by directory mode."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from tidegate.contract.codec import TierDocument
from tidegate.contract.errors import InvalidTierError, TidegateError
from tidegate.contract.tier import Lane, Tier
from tidegate_operator.desired import DesiredTier, Listing
from tidegate_operator.errors import SourceUnavailableError
from tidegate_operator.manifest_yaml import UnreadableManifestError, load_documents

log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

API_VERSION, KIND = "tidegate.dev/v1alpha1", "RateLimitTier"
SUFFIXES = (".yaml", ".yml")
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "tidegate.dev")
"""A file has no uid, so a tier's name gives it one that every start of the operator agrees on."""


class ManifestError(TidegateError):
    """A file is not made of valid manifests; `faults` names everything that is wrong with it."""

    def __init__(self, faults: tuple[str, ...]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class ManifestDirectory:
    """Lists the tiers of `directory`; remembers what each file held when it was last valid.

    Args:
        directory: Only its own *.yaml and *.yml files are read, in the order of their names.
        lanes: Address of dedicated cache lanes that are run by somebody else; it may hold `{tier}` and `{region}`. Empty: there are none.
    """

    def __init__(self, directory: Path, lanes: str = "") -> None:
        self._directory = directory
        self._lanes = lanes
        self._good: dict[Path, tuple[Tier, ...]] = {}
        self._faults: dict[Path, tuple[str, ...]] = {}
        self._wanted: dict[str, DesiredTier] = {}

    def paths(self) -> list[Path]:
        """The manifest files that are there now.

        Raises:
            SourceUnavailableError: The directory cannot be read.
        """
        try:
            return sorted(path for path in self._directory.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))
        except OSError as ex:
            raise SourceUnavailableError(f"directory {self._directory}: {ex.strerror}") from ex

    async def list(self) -> Listing:
        """Read every file. Incomplete while a file that was never valid may hold any tier.

        Raises:
            SourceUnavailableError: The directory cannot be read or holds no manifest: whoever empties it hardly means to retire all tiers.
        """
        paths = self.paths()
        if not paths:
            raise SourceUnavailableError(
                f"directory {self._directory}: holds no manifest ({', '.join('*' + suffix for suffix in SUFFIXES)})"
            )
        self._good = {path: tiers for path, tiers in self._good.items() if path in paths}
        self._faults = {path: faults for path, faults in self._faults.items() if path in paths}
        owners: dict[str, Path] = {}
        for path in paths:
            faults = self._read(path)
            self._note(path, faults + tuple(self._claim(path, owners)))
        tiers = [tier for path in paths for tier in self._good.get(path, ()) if owners[tier.name] == path]
        self._wanted = {tier.name: self._desired(tier) for tier in tiers}
        return Listing(dict(self._wanted), is_complete=all(path in self._good for path in paths))

    def _read(self, path: Path) -> tuple[str, ...]:
        try:
            self._good[path] = read_manifests(path)
        except ManifestError as ex:
            return ex.faults
        return ()

    def _claim(self, path: Path, owners: dict[str, Path]) -> Iterator[str]:
        for tier in self._good.get(path, ()):
            owner = owners.setdefault(tier.name, path)
            if owner != path:
                yield f"tier {tier.name} is in {owner} too, and that file is taken"

    def _note(self, path: Path, faults: tuple[str, ...]) -> None:
        before = self._faults.get(path, ())
        self._faults[path] = faults
        if faults == before:
            return
        kept = [tier.name for tier in self._good.get(path, ())]
        consequence = f"kept: {', '.join(kept)}" if kept else "until it is valid, no tier is retired"
        for fault in faults:
            sentence = f"{path}: {fault} ({consequence})"
            log.error(sentence)
        if not faults:
            log.info("manifest valid again", path=str(path))

    def _desired(self, tier: Tier) -> DesiredTier:
        known = self._wanted.get(tier.name)
        if known and known.document and known.document.tier == tier:
            return known
        generation = max(time.time_ns() // 1_000_000, known.generation + 1 if known else 0)
        uid = str(uuid.uuid5(NAMESPACE, tier.name))
        lane = self._lanes.replace("{tier}", tier.name) if tier.cache.lane is Lane.DEDICATED else ""
        return DesiredTier(tier.name, uid, generation, TierDocument(tier, uid, generation, lane))


def read_manifests(path: Path) -> tuple[Tier, ...]:
    """The tiers of one file, taken whole or not at all.

    Raises:
        ManifestError: It cannot be read, holds no manifest or an invalid one, or one tier twice.
    """
    try:
        documents = load_documents(path)
    except UnreadableManifestError as ex:
        raise ManifestError((str(ex),)) from ex
    if not documents:
        raise ManifestError(("holds no manifest",))
    faults: list[str] = []
    tiers = [tier for document in documents if (tier := _read(document, faults))]
    names = [tier.name for tier in tiers]
    faults += [f"metadata.name: {name!r} is used twice" for name in sorted({name for name in names if names.count(name) > 1})]
    if faults:
        raise ManifestError(tuple(faults))
    return tuple(tiers)


def _read(document: Any, faults: list[str]) -> Tier | None:
    if not isinstance(document, dict) or (document.get("apiVersion"), document.get("kind")) != (API_VERSION, KIND):
        faults.append(f"must be an object with apiVersion {API_VERSION} and kind {KIND}")
        return None
    unknown = sorted(map(str, document.keys() - {"apiVersion", "kind", "metadata", "spec", "status"}))
    faults.extend(f"{field}: unknown field" for field in unknown)
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    try:
        return Tier.from_spec(name if isinstance(name, str) else "", document.get("spec"))
    except InvalidTierError as ex:
        faults.extend(map(str, ex.violations))
        return None
