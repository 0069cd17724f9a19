"""A keeper of an earlier version is never asked for what it would not heed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from descartesd.agents.keeper_link import KeeperLink
from descartesd.errors import UnavailableError, UnimplementedError


def asked(version: str, **fields: Any) -> dict[str, Any]:
    """What is sent to a keeper of a version; it is told by the refusal that nobody is there."""

    async def ask() -> dict[str, Any]:
        link = KeeperLink(on_lost=lambda: None)
        link.version = version
        with pytest.raises(UnavailableError):
            await link.spawn(env={"A": "1"}, **fields)
        return fields

    return asyncio.run(ask())


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_bound_directory_is_refused_by_one_that_would_start_it_anywhere(version: str) -> None:
    with pytest.raises(UnimplementedError, match=rf"version {version} .* has no 'cwd_within'"):
        asked(version, cwd_within=["/srv"])


def test_a_terminal_needs_version_1_1_only() -> None:
    asked("1.1", tty={"rows": 1, "cols": 1})
    with pytest.raises(UnimplementedError, match="has no 'tty'"):
        asked("1.0", tty={"rows": 1, "cols": 1})


def test_one_of_this_version_or_a_later_one_is_asked_for_everything() -> None:
    for version in ("1.2", "1.3"):
        asked(version, cwd_within=["/srv"])
