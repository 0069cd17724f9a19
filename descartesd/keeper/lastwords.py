"""What a keeper leaves to the next one's daemon: how the agents have ended that it ended.

A daemon that has stopped, or stops at the same time, cannot be told; without this it would have to
call agents lost that were ended in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from descartesd.keeper import protocol
from descartesd.keeper.agent import Agents


def leave_last_words(output_dir: str, agents: Agents, say: Callable[[str], None]) -> None:
    """Write them, whole or not at all; without an agent what there is stays, still unread maybe."""
    if not len(agents):
        return
    path = protocol.last_words_path(output_dir)
    message = protocol.pack({"agents": [agent.status() for agent in agents]})
    try:
        fd = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        with open(fd, "wb") as file:
            file.write(message)
            file.flush()
            # The host may be going down.
            os.fsync(fd)
        os.rename(f"{path}.new", path)
    except OSError as exc:
        say(f"how the last agents ended was not kept: {exc}")
