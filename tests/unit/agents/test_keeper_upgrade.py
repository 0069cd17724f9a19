"""Asking a keeper to re-execute itself: again while it is busy, once where it cannot."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from descartesd.agents import keeper_upgrade
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.keeper_upgrade import KeeperUpgrade
from descartesd.keeper import protocol
from tests.support.scriptedkeeper import ScriptedKeeper

BUSY = ("unavailable", "it is busy")


class Keeper(ScriptedKeeper):
    """One of another build that turns into one of `becomes`."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.build = "old"
        self.features = ["reexec"]
        self.becomes = protocol.build()

    def _reply(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "reexec":
            self.build = self.becomes
        elif request["op"] != "hello":
            return super()._reply(request)
        told = super()._reply({"op": "hello"})
        return {**told, "build": self.build, "features": self.features}


Scene = Callable[[Keeper, KeeperUpgrade, list[dict[str, Any]]], Coroutine[Any, Any, None]]


def play(path: Path, scene: Scene, *, is_allowed: bool = True, **about: Any) -> None:
    """Run a scene between a keeper and who is to bring it to the installed version.

    `about` are attributes of the keeper.
    """

    async def whole() -> None:
        with closing(Keeper(str(path / "s"))) as keeper:
            for name, value in about.items():
                setattr(keeper, name, value)
            link = KeeperLink(on_lost=lambda: None)
            upgrade = KeeperUpgrade(link, is_allowed=is_allowed)
            recorded: list[dict[str, Any]] = []
            upgrade.record = recorded.append
            await link.connect(str(path / "s"))
            running = asyncio.create_task(upgrade.run())
            async with asyncio.timeout(20):
                await scene(keeper, upgrade, recorded)
            running.cancel()
            link.close()

    asyncio.run(whole())


async def until(is_true: Callable[[], object]) -> None:
    while not is_true():  # noqa: ASYNC110 - what is true is nobody's event
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper_upgrade, "_RETRY_MIN_S", 0.001)


def test_one_that_is_busy_is_asked_again_until_it_is_not(tmp_path: Path) -> None:
    async def scene(keeper: Keeper, upgrade: KeeperUpgrade, recorded: list[Any]) -> None:
        keeper.refusals["reexec"] = BUSY
        upgrade.keeper_is_ready()
        await until(lambda: len(keeper.of("reexec")) > 3)
        assert upgrade.stays_because == "it is busy; it is asked again"
        assert recorded == []

        del keeper.refusals["reexec"]

        await until(lambda: recorded)
        assert upgrade.stays_because is None
        assert not upgrade.is_another
        version = protocol.VERSION
        assert recorded == [
            {
                "from": {"version": version, "build": "old"},
                "to": {"version": version, "build": keeper.becomes},
            }
        ]

    play(tmp_path, scene)


def test_one_that_cannot_is_asked_once_in_its_connection(tmp_path: Path) -> None:
    async def scene(keeper: Keeper, upgrade: KeeperUpgrade, recorded: list[Any]) -> None:
        keeper.refusals["reexec"] = ("unimplemented", "it cannot")
        for number in (1, 2):
            upgrade.keeper_is_ready()
            await until(lambda: upgrade.stays_because == "it cannot")
            assert len(keeper.of("reexec")) == number
        assert recorded == []

    play(tmp_path, scene)


def test_one_that_is_the_installed_one_is_left_alone(tmp_path: Path) -> None:
    async def scene(keeper: Keeper, upgrade: KeeperUpgrade, _recorded: list[Any]) -> None:
        assert not upgrade.is_another
        upgrade.keeper_is_ready()

        await upgrade._link.request("usage", agent_ids=[])

        assert upgrade.stays_because is None
        assert keeper.of("reexec") == []

    play(tmp_path, scene, build=protocol.build())


def test_one_that_becomes_yet_another_is_not_asked_for_ever(tmp_path: Path) -> None:
    async def scene(keeper: Keeper, upgrade: KeeperUpgrade, recorded: list[Any]) -> None:
        upgrade.keeper_is_ready()

        await until(lambda: recorded)

        assert "not the one installed with this server" in (upgrade.stays_because or "")
        assert len(keeper.of("reexec")) == 1

    play(tmp_path, scene, becomes="elsewhere")


@pytest.mark.parametrize(
    ("is_allowed", "features", "why"),
    [
        (False, ["reexec"], "server.keeper_upgrade is 'stay'"),
        (True, [], f"a keeper of version {protocol.VERSION} cannot re-execute itself"),
    ],
)
def test_one_that_may_not_or_never_could_is_not_asked(
    tmp_path: Path, is_allowed: bool, features: list[str], why: str
) -> None:
    async def scene(keeper: Keeper, upgrade: KeeperUpgrade, _recorded: list[Any]) -> None:
        upgrade.keeper_is_ready()

        await until(lambda: upgrade.stays_because == why)

        assert keeper.of("reexec") == []

    play(tmp_path, scene, is_allowed=is_allowed, features=features)
