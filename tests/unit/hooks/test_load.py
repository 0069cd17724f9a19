"""Plugins are found by their entry points, and what does not fit is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from descartesd.config.plugin import Given, masked, text_table
from descartesd.errors import StartupRefusedError
from descartesd.hooks.load import load
from tests.support.plugins import install

HELLO = """
    from typing import Annotated
    from descartesd.api import Meta, Struct, hookimpl

    class Where(Struct, frozen=True):
        host: str = "here"
        port: Annotated[int, Meta(ge=1, le=65535, title="a port")] = 80

    class Hello:
        class Config(Struct, frozen=True):
            greeting: str
            times: int = 1
            words: list[str] = []
            where: Where = Where()
            api_token: str = ""
            door: Annotated[str, Meta(extra={"secret": True})] = ""

        def __init__(self, config):
            self.config = config

        @hookimpl
        def agent_started(self, agent): ...
"""
Install = Callable[..., None]


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    monkeypatch.syspath_prepend(tmp_path)

    def install_here(name: str, source: str, **options: Any) -> None:
        # A module stays imported: each test has names of its own.
        install(tmp_path, name, source, **options)

    return install_here


def given(name: str, table: Mapping[str, Any], origin: str = "d.toml") -> Given:
    return Given(origin, f"plugins.{name}", name, table)


def refusal(*enabled: str, tables: tuple[Given, ...] = ()) -> StartupRefusedError:
    with pytest.raises(StartupRefusedError) as refused:
        load(enabled, tables)
    return refused.value


def test_only_what_is_enabled_is_imported(put: Install) -> None:
    put("load-one", "from descartesd.api import hookimpl")
    put("load-two", "raise SystemExit('never')")

    (loaded,) = load(["load-one"], [])

    assert (loaded.name, loaded.origin.version) == ("load-one", "1.2.3")
    assert loaded.origin.distribution == "descartesd-load-one"
    assert load([], []) == []


def test_a_plugin_is_made_with_its_settings_from_all_layers(put: Install) -> None:
    put("load-hello", HELLO, target="Hello")
    tables = [
        given("load-hello", {"greeting": "hi", "times": 2, "where": {"host": "there"}}),
        given("load-hello", {"times": 3}),
        given("load_hello", text_table(["TIMES"], "4"), "DESCARTES_PLUGINS__LOAD_HELLO__TIMES"),
        given("load_hello", text_table(["WORDS"], '["a", "b"]'), "X"),
        given("load_hello", text_table(["WHERE", "PORT"], "81"), "Y"),
        given("load-hello", {"api_token": "s3cret", "door": "open"}),
    ]

    (loaded,) = load(["load-hello"], tables)

    settings = loaded.origin.settings
    assert settings is not None
    assert loaded.plugin.config is settings  # type: ignore[attr-defined]
    assert masked(settings) == {
        "greeting": "hi",
        "times": 4,
        "words": ["a", "b"],
        "where": {"host": "there", "port": 81},
        "api_token": "***",
        "door": "***",
    }


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        ({}, "d.toml: plugins.load-typed.greeting: a value is needed"),
        (
            {"greeting": "x", "tims": 1},
            "d.toml: plugins.load-typed.tims: unknown key (did you mean 'times'?)",
        ),
        (
            {"greeting": "x", "times": "many"},
            "d.toml: plugins.load-typed.times: expected int, got 'many'",
        ),
        (
            {"greeting": "x", "where": {"port": 0}},
            "d.toml: plugins.load-typed.where.port: expected a port, got 0",
        ),
        (
            {"greeting": "@x"},
            "d.toml: plugins.load-typed.greeting: expected a value that does not begin with '@'",
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_named_with_its_rule(
    put: Install, table: dict[str, Any], fault: str
) -> None:
    put("load-typed", HELLO, target="Hello")

    error = refusal("load-typed", tables=(given("load-typed", table),))

    assert error.details == {"faults": [fault]}


def test_settings_for_a_plugin_that_has_none_are_refused(put: Install) -> None:
    put("load-plain", "")

    error = refusal("load-plain", tables=(given("load-plain", {"x": 1}),))

    assert error.message == "d.toml: plugins.load-plain: the plugin has no settings"


def test_a_missing_plugin_is_named_with_the_package_to_install(put: Install) -> None:
    put("load-there", "")

    assert refusal("load-gone").message == "plugin 'load-gone' is not installed"
    hint = str(refusal("load-theer").hint)
    assert "did you mean 'load-there'" in hint
    assert "pip install descartesd-load-theer" in hint


def test_a_plugin_that_cannot_be_imported_or_made_is_named(put: Install) -> None:
    put("load-broken", "import no_such_module")
    put("load-exits", "raise SystemExit(1)")
    put("load-unmade", "class P:\n    def __init__(self): raise OSError('no')", target="P")
    put("load-absent", "", target="Nothing")

    assert "cannot be imported" in refusal("load-broken").message
    assert "No module named 'no_such_module'" in refusal("load-broken").message
    assert "SystemExit: 1" in refusal("load-exits").message
    assert "no attribute 'Nothing'" in refusal("load-absent").message
    assert refusal("load-unmade").message == "plugin 'load-unmade' cannot be made: OSError: no"


@pytest.mark.parametrize(
    ("version", "fits"), [("'1.0'", True), ("'1.1'", False), ("'2.0'", False), ("'new'", False)]
)
def test_a_plugin_for_another_api_is_refused(put: Install, version: str, fits: bool) -> None:
    name = f"load-api-{version.strip(chr(39)).replace('.', '-')}"
    put(name, f"requires_api = {version}")

    if fits:
        assert load([name], [])
    else:
        assert refusal(name).message.startswith(f"plugin '{name}' does not fit this server: ")


def test_two_packages_of_one_name_are_refused(put: Install) -> None:
    put("load-twin", "", distribution="descartesd-load-twin")
    put("load-twin", "", distribution="other-load-twin")

    assert refusal("load-twin").message == (
        "plugin 'load-twin' is registered more than once,"
        " by descartesd-load-twin and other-load-twin"
    )


def test_a_name_that_is_enabled_twice_is_refused(put: Install) -> None:
    put("load-again", "")

    assert "more than once" in refusal("load-again", "load-again").message
