"""Plugins take over their changed settings while the server runs, where they can."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from descartesd.errors import InvalidArgumentError
from tests.support.plugins import PluggedServer

SOURCE = """
    import asyncio
    from descartesd.api import Action, Struct, hookimpl

    class Plain:
        class Config(Struct, frozen=True):
            word: str = "first"

        def __init__(self, config):
            self.word = config.word

        @hookimpl
        def register_actions(self):
            return [Action(name=self.name, summary="Say it.", run=lambda c, p: self.word)]

    class Stiff(Plain):
        name = "stiff"

    class Quick(Plain):
        name = "quick"

        def reload(self, config):
            self.word = config.word

    class Picky(Plain):
        name = "picky"

        async def reload(self, config):
            await asyncio.sleep(0)
            if config.word == "bad":
                raise ValueError("no such word")
            self.word = config.word
"""
NAMES = ("quick", "stiff", "picky")


@pytest.fixture(scope="module")
def server() -> Iterator[PluggedServer]:
    with PluggedServer(
        dict.fromkeys(NAMES, SOURCE), targets={name: name.title() for name in NAMES}
    ) as made:
        made.start()
        yield made


@pytest.fixture
def text(server: PluggedServer) -> Iterator[str]:
    plain = server.config.read_text()
    yield plain
    server.config.write_text(plain)
    with server.client() as client:
        client.server.reload()


def words(server: PluggedServer) -> list[str]:
    with server.client() as client:
        return [client.action.run(name=name).result for name in NAMES]


def configure(server: PluggedServer, text: str, **settings: str) -> None:
    tables = "".join(f'[plugins.{name}]\nword = "{word}"\n' for name, word in settings.items())
    server.config.write_text(text + tables)


def test_settings_are_taken_over_by_the_plugins_that_can(server: PluggedServer, text: str) -> None:
    configure(server, text, quick="second", stiff="second", picky="second")

    with server.client() as client:
        found = client.server.reload()
        again = client.server.reload()

    assert sorted(found.changed) == ["plugins.picky", "plugins.quick"]
    assert found.restart == ["plugins.stiff"]
    assert again.changed == []
    assert words(server) == ["second", "first", "second"]
    assert server.plugin("quick").config == {"word": "second"}


def test_a_plugin_that_refuses_its_settings_changes_nothing(
    server: PluggedServer, text: str
) -> None:
    configure(server, text.replace("max_agents = 100", "max_agents = 7"), quick="x", picky="bad")

    with (
        server.client() as client,
        pytest.raises(InvalidArgumentError, match=r"plugin 'picky' .* ValueError: no such word"),
    ):
        client.server.reload()

    assert words(server) == ["first", "first", "first"]
    assert server.plugin("quick").config == {"word": "first"}


def test_a_setting_that_does_not_fit_is_named(server: PluggedServer, text: str) -> None:
    server.config.write_text(f"{text}[plugins.quick]\nwrod = 'x'\n")

    with (
        server.client() as client,
        pytest.raises(InvalidArgumentError, match=r"plugins\.quick\.wrod: unknown key"),
    ):
        client.server.reload()
