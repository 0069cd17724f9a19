"""The Kubernetes manifests, and what they say of the pod."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DIRECTORY = Path(__file__).parents[2] / "packaging/kubernetes"


def manifests() -> dict[str, dict[str, Any]]:
    """Each object by its kind."""
    texts = (path.read_text() for path in sorted(DIRECTORY.glob("*.yaml")))
    objects = [each for text in texts for each in yaml.safe_load_all(text)]
    return {each["kind"]: each for each in objects}


def pod() -> dict[str, Any]:
    """The pod of the StatefulSet."""
    spec: dict[str, Any] = manifests()["StatefulSet"]["spec"]["template"]["spec"]
    return spec
