"""The commands of the chart's notes, pasted into a terminal; called by the fixtures, which install so, and the tests."""

import re
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.release import TRUSTED, Release
from tests.kube.chart import ROOT
from tests.kube.processes import eventually

ENFORCED_SECONDS = 60
PASTE_SECONDS = 120


def install_by_the_notes(release: Release, figures: Callable[[str, object], None]) -> None:
    """Install without any value, and paste the commands of the notes: then every pod is ready, and the tiers are enforced."""
    started = time.monotonic()
    release.helm.install()
    keys, tiers, listing = commands(release.helm.notes(), "helm upgrade", "kubectl apply", "kubectl get")
    paste(release, keys.replace("jwks.json", str(release.keys.token_keys)), *TRUSTED)
    paste(release, tiers)
    release.wait_until_ready()
    figures("helm install without values, then the commands of its notes, until every pod is ready", f"{time.monotonic() - started:.1f} s")
    eventually(release.tiers.all_ready, seconds=ENFORCED_SECONDS)
    assert "2/2" in paste(release, listing)


def commands(notes: str, *beginnings: str) -> list[str]:
    """The command of the notes that begins with each of these."""
    found = [re.search(rf"^ *({beginning}.*)$", notes, re.MULTILINE) for beginning in beginnings]
    assert all(found), notes
    return [match[1] for match in found if match]


def paste(release: Release, command: str, *options: str) -> str:
    """Run a command of the notes where a checkout of the project is, with options of one's own."""
    done = subprocess.run(
        [*command.split(), *options], capture_output=True, text=True, timeout=PASTE_SECONDS, env=terminal(release), cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def terminal(release: Release) -> dict[str, str]:
    """The variables of a terminal that finds kubectl and helm, and with them the cluster."""
    programs = release.workspace / "bin"
    programs.mkdir(exist_ok=True)
    for name, program in {"kubectl": release.program, "helm": release.helm.program}.items():
        link = programs / name
        if not link.exists():
            link.symlink_to(Path(program))
    return {**release.helm.environment, "PATH": f"{programs}:/usr/bin:/bin"}
