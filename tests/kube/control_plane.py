"""A Kubernetes API server with its etcd, on loopback, without controllers and nodes; started by the fixtures."""

import os
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import yaml
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from kubernetes import client
from tests.kube.processes import Program
from tests.ports import free_port

ADMIN = "admin"
ADMIN_TOKEN = "admin-of-the-tests"
START_SECONDS = 60
Kubectl = Callable[..., str]


@dataclass(frozen=True)
class ControlPlane:
    """A running API server: where it is, and kubeconfigs to reach it with."""

    url: str
    folder: Path

    @property
    def authority(self) -> Path:
        """The self-signed certificate of the server, which is also what clients trust."""
        return self.folder / "apiserver.crt"

    @property
    def admin_kubeconfig(self) -> Path:
        """Kubeconfig of a user who may do everything."""
        return self.kubeconfig(ADMIN, ADMIN_TOKEN)

    def kubeconfig(self, user: str, token: str) -> Path:
        """Write a kubeconfig with which `user` signs in by `token`."""
        path = self.folder / f"{user}.kubeconfig"
        cluster = {"server": self.url, "certificate-authority": str(self.authority)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "tests",
            "clusters": [{"name": "tests", "cluster": cluster}],
            "users": [{"name": user, "user": {"token": token}}],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": user, "namespace": "default"}}],
        }
        # Programs that were started before read it while it is made anew: whoever sees it sees all of it.
        with NamedTemporaryFile("w", dir=self.folder, delete=False) as file:
            yaml.safe_dump(content, file)
        Path(file.name).replace(path)
        return path

    @property
    def environment(self) -> dict[str, str]:
        """In which kubectl and Helm may do everything, and remember nothing of an earlier server at the same address."""
        return {**os.environ, "KUBECONFIG": str(self.admin_kubeconfig), "KUBECACHEDIR": str(self.folder / "kubectl")}

    def client(self) -> client.ApiClient:
        """A client that may do everything."""
        settings = client.Configuration(host=self.url, ssl_ca_cert=str(self.authority))
        return client.ApiClient(settings, header_name="Authorization", header_value=f"Bearer {ADMIN_TOKEN}")

    def is_ready(self) -> bool:
        """Whether the server says that it serves everything."""
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        try:
            # The server makes the file before it fills it.
            trust = ssl.create_default_context(cafile=self.authority)
            with urllib.request.urlopen(request, timeout=2, context=trust) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def kubectl_for(cluster: ControlPlane, program: Path) -> Kubectl:
    """Runs kubectl with the given arguments and returns what it prints; fails when it does, unless `check` is false."""

    def run(*arguments: str, stdin: str = "", check: bool = True, seconds: float = 60) -> str:
        done = subprocess.run(
            [str(program), *arguments], input=stdin, capture_output=True, text=True, timeout=seconds, env=cluster.environment, check=False
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    return run


@contextmanager
def control_plane(folder: Path, *, etcd: Path, server: Path) -> Iterator[ControlPlane]:
    """Run both programs with their files in `folder` until the block ends."""
    etcd_url, peer_url = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    running = ControlPlane(f"https://127.0.0.1:{free_port()}", folder)
    store = Program([str(etcd), *etcd_flags(folder, etcd_url, peer_url)], folder / "etcd.log")
    program = Program([str(server), *server_flags(running, etcd_url)], folder / "kube-apiserver.log")
    with store, program:
        program.wait_until(running.is_ready, seconds=START_SECONDS)
        yield running


def etcd_flags(folder: Path, client_url: str, peer_url: str) -> list[str]:
    """etcd with one member that doesn't wait for its disk: nothing here outlives the tests."""
    return [
        *("--name", "tests", "--data-dir", str(folder / "etcd"), "--log-level", "warn", "--unsafe-no-fsync"),
        *("--listen-client-urls", client_url, "--advertise-client-urls", client_url),
        *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
        *("--initial-cluster", f"tests={peer_url}"),
    ]


def server_flags(server: ControlPlane, etcd_url: str) -> list[str]:
    """The API server on loopback, with RBAC; the plugin that is off asks for service accounts that only a controller would make.

    The one that is on has an owner reference that blocks its owner's deletion take more rights, as some distributions do.
    """
    return [
        *common_server_flags(server, etcd_url, {ADMIN: ADMIN_TOKEN}),
        *("--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1"),
        *("--disable-admission-plugins", "ServiceAccount", "--authorization-mode", "RBAC"),
        *("--enable-admission-plugins", "OwnerReferencesPermissionEnforcement"),
        *("--service-cluster-ip-range", "10.0.0.0/24", "--endpoint-reconciler-type", "none"),
    ]


def common_server_flags(server: ControlPlane, etcd_url: str, tokens: Mapping[str, str]) -> list[str]:
    """What every API server of the tests is told: its files, who signs in by which token, who signs tokens of service accounts."""
    signing_key = write_signing_key(server.folder)
    accounts = server.folder / "tokens.csv"
    accounts.write_text("".join(f'{token},{user},{user},"{group_of(user)}"\n' for user, token in tokens.items()))
    return [
        *("--etcd-servers", etcd_url, "--cert-dir", str(server.folder), "--token-auth-file", str(accounts)),
        *("--secure-port", server.url.rpartition(":")[2], "--service-account-issuer", "https://kubernetes.default.svc"),
        *("--service-account-key-file", str(signing_key), "--service-account-signing-key-file", str(signing_key)),
    ]


def group_of(user: str) -> str:
    """The group that decides what a user may do, where it isn't the name alone."""
    if user == ADMIN:
        return "system:masters"
    return "system:nodes" if user.startswith("system:node:") else ""


def write_signing_key(folder: Path) -> Path:
    """A fresh key for service account tokens; the server reads the public half from the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    path = folder / "service-account.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    return path
