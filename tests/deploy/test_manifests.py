"""`k8s/`: what a real kubectl renders is valid, closed, and what the docs say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes.client
import kubernetes_validate
import pytest
import yaml

from agent_runtime.access.binding import check_bind
from agent_runtime.cli.serve import serve
from agent_runtime.settings import load_settings
from tests.deploy.image import dockerfile
from tests.deploy.unit_like import settings_of

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
PLACES = ["base", *(f"overlays/{name}" for name in OVERLAYS)]
CLASSES = {
    "overlays/example": "kata-qemu",
    "overlays/gvisor": "gvisor",
    "overlays/kata-clh": "kata-clh",
    "overlays/kata-fc": "kata-fc",
    "overlays/kata-qemu": "kata-qemu",
}
"""The others leave the node's own runtime."""
KUBECTL = shutil.which("kubectl", path=os.path.dirname(sys.executable))
Document = dict[str, Any]

pytestmark = pytest.mark.skipif(KUBECTL is None, reason="no wheel of kubectl for this machine")


@cache
def rendered(place: str) -> tuple[Document, ...]:
    """The documents that kubectl would apply."""
    assert KUBECTL is not None
    command = [KUBECTL, "kustomize", str(K8S / place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return tuple(yaml.load_all(done.stdout, getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def of_kind(place: str, kind: str) -> list[Document]:
    return [document for document in rendered(place) if document["kind"] == kind]


def one(place: str, kind: str) -> Document:
    (document,) = of_kind(place, kind)
    return document


def pod_of(place: str) -> Document:
    spec: Document = one(place, "Deployment")["spec"]["template"]["spec"]
    return spec


def containers_of(place: str) -> list[Document]:
    pod = pod_of(place)
    return [*pod["containers"], *pod.get("initContainers", [])]


def test_every_document_is_valid_for_the_cluster_and_for_the_official_client() -> None:
    """The schemas refuse unknown fields; the client's models drop them, so they come back as they
    went, or not. Most documents of an overlay are the base's."""
    distinct = {json.dumps(document): document for place in PLACES for document in rendered(place)}
    assert len(distinct) > len(rendered("base"))
    api = kubernetes.client.ApiClient()
    for document in distinct.values():
        kubernetes_validate.validate(document, "1.37", strict=True)
        assert round_trip(api, document) == document


def round_trip(api: Any, document: Document) -> object:
    """Into the model of its kind, and back."""
    model = api.deserialize(json.dumps(document), f"V1{document['kind']}", "application/json")
    return api.sanitize_for_serialization(model)


@pytest.mark.parametrize("field", ["runAsRoot", "readOnlyRootFileSystem"])
def test_a_wrong_field_is_seen_by_both(field: str) -> None:
    """That the two checks above can fail."""
    deployment = yaml.safe_load(yaml.safe_dump(one("base", "Deployment")))
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["securityContext"][field] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, "1.37", strict=True)
    assert round_trip(kubernetes.client.ApiClient(), deployment) != deployment


# ---- what is closed --------------------------------------------------------------------------


def levels(place: str) -> dict[str, str]:
    """Pod Security: mode -> level."""
    labels = one(place, "Namespace")["metadata"]["labels"]
    prefix = "pod-security.kubernetes.io/"
    return {mode: labels[prefix + mode] for mode in ("enforce", "audit", "warn")}


@pytest.mark.parametrize("place", PLACES)
def test_pods_keep_to_the_level_that_their_namespace_enforces(place: str) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/, control by control."""
    level = "baseline" if place == "overlays/gvisor" else "restricted"
    assert levels(place) == {"enforce": level, "audit": "restricted", "warn": "restricted"}
    pod = pod_of(place)
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    kinds = {"configMap", "emptyDir", "persistentVolumeClaim", "secret"}
    assert {key for volume in pod["volumes"] for key in volume} - {"name"} <= kinds
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in containers_of(place):
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["privileged"] is False
        assert security["capabilities"]["drop"] == ["ALL"]
        assert not {"procMount", "seccompProfile"} & set(security)
        assert not [port for port in container["ports"] if "hostPort" in port]
        added = security["capabilities"].get("add", [])
        if level == "restricted":
            assert not added
        else:
            assert added == ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID"]
    if level == "restricted":
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001


@pytest.mark.parametrize("place", PLACES)
def test_containers_have_a_read_only_root_and_bounds(place: str) -> None:
    """Beyond what `restricted` asks for."""
    for container in containers_of(place):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        for bound in ("requests", "limits"):
            assert set(container["resources"][bound]) == {"cpu", "memory", "ephemeral-storage"}
        volumes = {mount["name"]: mount for mount in container["volumeMounts"]}
        writable = {mount["mountPath"] for mount in volumes.values() if not mount.get("readOnly")}
        assert writable == {"/var/lib/agent-runtime", "/tmp"}
        assert not [each for each in container.get("env", []) if "secretKeyRef" in str(each)]
    (scratch,) = (volume for volume in pod_of(place)["volumes"] if "emptyDir" in volume)
    assert scratch["emptyDir"]["sizeLimit"]


@pytest.mark.parametrize("place", PLACES)
def test_the_daemon_may_ask_the_cluster_for_nothing(place: str) -> None:
    account = one(place, "ServiceAccount")
    assert account["automountServiceAccountToken"] is False
    assert pod_of(place)["automountServiceAccountToken"] is False
    assert pod_of(place)["serviceAccountName"] == account["metadata"]["name"]
    assert not [document for document in rendered(place) if "Cluster" in document["kind"]]
    for binding in of_kind(place, "RoleBinding"):
        assert {subject["kind"] for subject in binding["subjects"]} == {"Group"}
    rules = [rule for role in of_kind(place, "Role") for rule in role["rules"]]
    for rule in rules:
        assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
        assert "secrets" not in rule["resources"]
    # kustomize renames what has a name that it made, also here.
    assert {name for rule in rules for name in rule.get("resourceNames", [])} == {
        one(place, "Deployment")["metadata"]["name"]
    }


@pytest.mark.parametrize("place", PLACES)
def test_connections_are_denied_but_for_those_that_are_named(place: str) -> None:
    policies = {policy["metadata"]["name"]: policy for policy in of_kind(place, "NetworkPolicy")}
    deny = policies.pop("default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    labels = one(place, "Deployment")["spec"]["template"]["metadata"]["labels"]
    ports = set()
    for policy in policies.values():
        chosen = policy["spec"]["podSelector"]["matchLabels"]
        assert chosen.items() <= labels.items()
        for way in ("ingress", "egress"):
            for rule in policy["spec"].get(way, []):
                assert rule["from" if way == "ingress" else "to"], "an empty list is everybody"
                ports |= {(way, port["port"], port["protocol"]) for port in rule["ports"]}
    assert ports == {
        ("ingress", 8700, "TCP"),
        ("egress", 53, "UDP"),
        ("egress", 53, "TCP"),
        ("egress", 443, "TCP"),
    }
    blocks = re.findall(r"'cidr': '([^']+)'", str(policies["agent-runtime-egress"]))
    assert blocks == ["0.0.0.0/0", "::/0"]
    assert "169.254.0.0/16" in str(policies), "the cloud's metadata"


@pytest.mark.parametrize("place", PLACES)
def test_no_secret_is_among_the_manifests(place: str) -> None:
    assert not of_kind(place, "Secret")


# ---- what runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_one_daemon_writes_the_volume(place: str) -> None:
    deployment = one(place, "Deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    claim = one(place, "PersistentVolumeClaim")
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    (state,) = (each for each in pod_of(place)["volumes"] if "persistentVolumeClaim" in each)
    assert state["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    budget = one(place, "PodDisruptionBudget")["spec"]
    assert "minAvailable" not in budget, "of one pod, it would keep a node from being drained"


@pytest.mark.parametrize("place", PLACES)
def test_service_budget_and_policies_mean_the_pods_that_there_are(place: str) -> None:
    labels = one(place, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one(place, "Service")["spec"]["selector"].items() <= labels.items()
    chosen = one(place, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"]
    assert chosen.items() <= labels.items()
    (container,) = containers_of(place)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    (service,) = one(place, "Service")["spec"]["ports"]
    assert ports[service["targetPort"]] == 8700
    for probe, path in (("startup", "/livez"), ("liveness", "/livez"), ("readiness", "/readyz")):
        request = container[f"{probe}Probe"]["httpGet"]
        assert (request["path"], ports[request["port"]]) == (path, 8700)


def test_manifests_image_and_unit_ask_for_what_serve_knows() -> None:
    (container,) = containers_of("base")
    (unit,) = settings_of(str(ROOT / "examples/systemd/agent-runtime.service"))["ExecStart"]
    for verb, *words in (container["args"], dockerfile().command, unit.split()[1:]):
        assert verb == "serve"
        context = serve.make_context(verb, words)
        assert context.params["port"] in (8700, None)


def test_the_daemon_is_given_more_time_than_it_takes_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`shutdown_seconds` bounds each of its three steps: calls, streams and requests, the store."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    needed = 3 * load_settings().shutdown_seconds
    assert pod_of("base")["terminationGracePeriodSeconds"] > needed
    (stop,) = settings_of(str(ROOT / "examples/systemd/agent-runtime.service"))["TimeoutStopSec"]
    assert int(stop) > needed


@pytest.mark.parametrize("place", PLACES)
def test_the_runtime_class_is_the_overlays(place: str) -> None:
    assert pod_of(place).get("runtimeClassName") == CLASSES.get(place)


@pytest.mark.parametrize("place", PLACES)
def test_the_settings_are_settings(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place where the image looks for them."""
    settings_map = one(place, "ConfigMap")
    (volume,) = (each for each in pod_of(place)["volumes"] if "configMap" in each)
    assert volume["configMap"]["name"] == settings_map["metadata"]["name"]
    (container,) = containers_of(place)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert "XDG_CONFIG_HOME=/etc" in image and mounts[volume["name"]] == "/etc/agent-runtime"
    assert "XDG_STATE_HOME=/var/lib" in image and mounts["state"] == "/var/lib/agent-runtime"
    (tmp_path / "agent-runtime").mkdir()
    for name, text in settings_map["data"].items():
        (tmp_path / "agent-runtime" / name).write_text(text, encoding="utf-8")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for variable in container.get("env", []):
        monkeypatch.setenv(variable["name"], variable["value"])
    settings = load_settings()
    assert settings.sandbox == "container"
    names = {rule["host"] for each in of_kind(place, "Ingress") for rule in each["spec"]["rules"]}
    assert {one(place, "Service")["metadata"]["name"], *names} <= set(settings.allowed_hosts)
    check_bind("0.0.0.0", settings)
    limit = container["resources"]["limits"]["memory"]
    assert limit.endswith("Gi") and settings.sandbox_memory_bytes is not None
    assert settings.sandbox_memory_bytes < int(limit[:-2]) << 30
    keys = [source for source in settings.model_keys.values() if source.startswith("file:")]
    assert all(source.startswith(f"file:{mounts['secrets']}/") for source in keys)


def test_every_component_has_an_overlay_and_several_go_together() -> None:
    """The example is some of them at once: what each adds is there."""
    components = {path.parent.name for path in K8S.glob("components/*/kustomization.yaml")}
    assert components == {*OVERLAYS} - {"example"}
    example = yaml.safe_load((K8S / "overlays/example/kustomization.yaml").read_text("utf-8"))
    (container,) = containers_of("overlays/example")
    for name in (os.path.basename(path) for path in example["components"]):
        (alone,) = containers_of(f"overlays/{name}")
        assert all(each in container.get("env", []) for each in alone.get("env", [])), name
        kinds = {(each["kind"], each["metadata"]["name"]) for each in rendered(f"overlays/{name}")}
        assert kinds <= {
            (each["kind"], each["metadata"]["name"]) for each in rendered("overlays/example")
        }
    assert container["image"].startswith("registry.example.com/agent-runtime:")


def test_every_overlay_is_documented() -> None:
    text = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
    assert OVERLAYS == sorted(re.findall(r"^\| `k8s/overlays/([a-z-]+)` \|", text, re.MULTILINE))
