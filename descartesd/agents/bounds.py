"""What holds for every start of an agent whose owner's role bounds its specs."""

from __future__ import annotations

import msgspec


class Bounds(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Kept with the agent, because links and files may be others at its next start.

    `cwd`: directories its own must really be or be below; () where the spec names none.
    Its program is looked up in server.runner.path, whatever PATH its environment has.
    """

    cwd: tuple[str, ...] = ()
