"""What a configuration comes to, and who has decided it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from descartesd.config.effective import Setting, settings
from descartesd.config.leaves import leaves
from descartesd.config.load import load
from descartesd.config.toml_text import toml_text

FILE = """
[server]
max_agents = 5
[policy.local_uids]
2000 = "operator"
[policy.roles.ops.methods]
"agent.list" = "any"
[backends.mine]
command = ["mine", "--", "{task}"]
env = { PLAIN = "seen-by-nobody" }
[plugins]
enabled = ["some-thing"]
[plugins.some-thing]
url = "https://here"
api_token = "seen-by-nobody"
[environments.staging.limits]
max_queued = 7
"""


def found(tmp_path: Path, text: str, **environ: str) -> dict[str, Setting]:
    path = tmp_path / "d.toml"
    path.write_text(text)
    return {each.key: each for each in settings(load(str(path), environ=environ))}


def test_every_layer_is_named_for_what_it_decides(tmp_path: Path) -> None:
    told = found(
        tmp_path,
        FILE,
        DESCARTES_ENV="staging",
        DESCARTES_MONITORING__LOG_LEVEL="debug",
        DESCARTES_POLICY__LOCAL_UIDS__2001="observer",
        DESCARTES_PLUGINS__SOME_THING__URL="https://there",
    )

    assert told["server.max_agents"][1:] == (5, "d.toml")
    assert told["server.endpoint"][1:] == ("tcp://127.0.0.1:5555", "default")
    assert told["limits.max_queued"][1:] == (7, "d.toml [environments.staging]")
    variable = "DESCARTES_MONITORING__LOG_LEVEL"
    assert told["monitoring.log_level"][1:] == ("debug", variable)
    assert told["policy.local_uids.2000"][1:] == ("operator", "d.toml")
    variable = "DESCARTES_POLICY__LOCAL_UIDS__2001"
    assert told["policy.local_uids.2001"][1:] == ("observer", variable)
    assert told['policy.roles.ops.methods."agent.list"'].origin == "d.toml"
    variable = "DESCARTES_PLUGINS__SOME_THING__URL"
    assert told["plugins.some-thing.url"][1:] == ("https://there", variable)


def test_what_may_be_a_secret_is_masked(tmp_path: Path) -> None:
    told = found(tmp_path, FILE)

    assert told["backends.mine.env.PLAIN"].value == "***"
    assert told["plugins.some-thing.api_token"].value == "***"
    assert "seen-by-nobody" not in str(told)
    assert told["backends.mine.command"].value == ("mine", "--", "{task}")


@pytest.mark.parametrize("text", ["", "[server]\nmax_agents = 5\n"], ids=["defaults", "a file"])
def test_what_is_told_is_itself_a_configuration_that_comes_to_the_same(
    tmp_path: Path, text: str
) -> None:
    told = found(tmp_path, text)

    again = "\n".join(
        f"{key} = {toml_text(value)}" for key, value, _ in told.values() if value is not None
    )

    assert tomllib.loads(again)
    assert {key: each.value for key, each in found(tmp_path, again).items()} == {
        key: each.value for key, each in told.items()
    }


def test_every_setting_of_the_schema_is_told(tmp_path: Path) -> None:
    told = found(tmp_path, "")

    assert list(told) == [leaf.key for leaf in leaves().values() if not leaf.is_table]
