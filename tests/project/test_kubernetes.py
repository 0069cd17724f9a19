"""The manifests are what Kubernetes takes, and agree with the image they run."""

from __future__ import annotations

import json
import re
import tomllib
from importlib import metadata
from typing import Any

import kubernetes_validate
import pytest

from descartesd.config.layers import PREFIX
from descartesd.config.leaves import leaves
from descartesd.config.load import load
from tests.docs.pages import ROOT
from tests.support.manifests import DIRECTORY, manifests, pod

IMAGE = (ROOT / "packaging/container/Containerfile").read_text()
CONFIG = ROOT / "packaging/container/descartesd.toml"
# An old one that is still in use, and the newest there is a schema of.
VERSIONS = ("1.29.0", kubernetes_validate.latest_version())
OBJECTS = manifests()
CONTAINERS = [*pod()["initContainers"], *pod()["containers"]]
(SERVER,) = pod()["containers"]


def said(instruction: str) -> str:
    """What a line of the Containerfile says, whose lines may be broken."""
    text = IMAGE.replace("\\\n", " ")
    found = re.search(rf"^{instruction}\s+(.*)$", text, re.MULTILINE)
    assert found is not None, instruction
    return found[1]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", [kind for kind in OBJECTS if kind != "Kustomization"])
def test_manifest_is_one_that_kubernetes_takes(kind: str, version: str) -> None:
    kubernetes_validate.validate(OBJECTS[kind], version, strict=True)


def test_unknown_field_would_be_found() -> None:
    wrong = {**OBJECTS["Service"], "specs": {}}

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[0], strict=True)


def test_every_manifest_is_applied_and_belongs_together() -> None:
    listed = OBJECTS["Kustomization"]["resources"]
    spec = OBJECTS["StatefulSet"]["spec"]

    assert sorted(listed) == sorted(
        path.name for path in DIRECTORY.iterdir() if path.name != "kustomization.yaml"
    )
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    assert OBJECTS["Service"]["spec"]["selector"] == labels
    assert OBJECTS["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == labels
    assert spec["serviceName"] == OBJECTS["Service"]["metadata"]["name"]
    (keys,) = (each for each in pod()["volumes"] if "secret" in each)
    assert keys["secret"]["secretName"] == OBJECTS["Secret"]["metadata"]["name"]


def test_image_is_that_of_this_version() -> None:
    version = metadata.version("descartesd")

    assert {each["image"] for each in CONTAINERS} == {f"localhost/descartesd:{version}"}


def test_user_is_that_of_the_image() -> None:
    context = pod()["securityContext"]

    uid, _, gid = said("USER").partition(":")
    assert (context["runAsUser"], context["runAsGroup"]) == (int(uid), int(gid))
    assert context["fsGroup"] == int(gid)
    assert context["runAsNonRoot"] is True


def test_no_container_may_do_more_than_everybody() -> None:
    for each in CONTAINERS:
        context = each["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod()["automountServiceAccountToken"] is False


def test_port_is_that_of_the_image_and_of_its_configuration() -> None:
    (port,) = SERVER["ports"]
    (served,) = OBJECTS["Service"]["spec"]["ports"]
    (let_in,) = OBJECTS["NetworkPolicy"]["spec"]["ingress"][0]["ports"]
    endpoint = tomllib.loads(CONFIG.read_text())["server"]["endpoint"]

    assert port["containerPort"] == served["port"] == int(said("EXPOSE"))
    assert endpoint == f"tcp://0.0.0.0:{port['containerPort']}"
    assert port["name"] == served["targetPort"] == let_in["port"]


def test_everything_the_server_writes_is_on_a_volume() -> None:
    mounts = {each["mountPath"]: each["name"] for each in SERVER["volumeMounts"]}
    server = tomllib.loads(CONFIG.read_text())["server"]
    volumes = json.loads(said("VOLUME"))
    assert {*volumes, said("WORKDIR"), "/tmp", server["run_dir"]} <= mounts.keys()
    claims = OBJECTS["StatefulSet"]["spec"]["volumeClaimTemplates"]
    known = {each["name"] for each in (*pod()["volumes"], *(each["metadata"] for each in claims))}
    used = {each["name"] for one in CONTAINERS for each in one["volumeMounts"]}
    assert used == known
    # What has to survive is on the volume that does.
    for path in (server["state_dir"], server["keys_dir"]):
        directory, _, _ = path.rpartition("/")
        assert directory in volumes
        assert mounts[directory] == claims[0]["metadata"]["name"]


def test_probes_ask_what_the_image_itself_asks() -> None:
    asked = json.loads(said("HEALTHCHECK").partition("CMD ")[2])

    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert SERVER[probe]["exec"]["command"] == asked
        assert SERVER[probe]["timeoutSeconds"] >= float(asked[asked.index("--timeout") + 1])


def test_variables_are_settings() -> None:
    known = {f"{PREFIX}{key.replace('.', '__')}".upper() for key in leaves()}
    variables = {each["name"] for each in SERVER["env"]}

    assert variables - {"CREDENTIALS_DIRECTORY"} <= known


def test_configuration_of_the_image_holds() -> None:
    config: Any = load(str(CONFIG), environ={}).config

    assert config.server.make_missing_keys is True
