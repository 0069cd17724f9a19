from __future__ import annotations

import subprocess
import sys

import pytest

import descartesd.client


def loaded_by(statement: str) -> set[str]:
    program = f"{statement}\nimport sys\nprint(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(run.stdout.split())


def test_the_blocking_client_starts_without_what_it_does_not_need() -> None:
    loaded = loaded_by("from descartesd.client import Client")

    assert not loaded & {"asyncio", "zmq.asyncio", "nacl", "dynaconf", "pluggy", "logging"}


def test_the_package_knows_its_own_names_only() -> None:
    for name in descartesd.client.__all__:
        assert getattr(descartesd.client, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        _ = descartesd.client.nonsense
