"""What all examples of the state machine share, and what must be true of it in the end."""

from __future__ import annotations

import os
import uuid
from collections import Counter

import psutil

from descartesd.agents.lifecycle import ENDED
from descartesd.client import Client
from tests.support.agents import descriptors, is_alive, keeper_fds, output, sh
from tests.support.eventually import eventually
from tests.support.follower import Follower, check_numbers, lives
from tests.support.server import Server

# Every process of these agents has it, and no process of another test.
MARK = "TEST_MARK"


class Stage:
    """What all examples share: a server, a client, and a follower of everything that happens."""

    def __init__(self, server: Server, client: Client, follower: Follower) -> None:
        self.server = server
        self.client = client
        self.follower = follower
        self.mark = uuid.uuid4().hex
        # How often each agent there has been was started; at least, of those that restart.
        self.attempts: dict[str, int] = {}
        self.restarting: set[str] = set()
        # Once everything has been used, what stays open can be told: with its first large message
        # pyzmq begins a thread with descriptors of its own.
        agent = client.agent.spawn(spec=sh("head -c 300000 /dev/zero"))
        client.agent.wait(id=agent.id)
        output(client, agent.id)
        client.agent.remove(id=agent.id)
        self.attempts[agent.id] = 1
        # Only this client and the follower.
        eventually(lambda: self.connections() == 2)
        # SQLite keeps the descriptor of a connection it has closed, for the next one, while another
        # has locked the file (https://www.sqlite.org/src/file/src/os_unix.c).
        registry = server.directory / "state" / "registry.sqlite"
        self.base = self.held() | Counter({str(registry): 2})

    def connections(self) -> int:
        """How many clients are connected, as the kernel counts them."""
        assert self.server.process is not None
        found = psutil.Process(self.server.process.pid).net_connections("tcp")
        return sum(each.status == psutil.CONN_ESTABLISHED for each in found)

    def held(self) -> Counter[str]:
        """What the server holds: descriptors of daemon and keeper, files of output."""
        assert self.server.process is not None
        daemon = descriptors(self.server.process.pid)
        files = os.listdir(self.server.directory / "state" / "output")
        return Counter([*daemon, *keeper_fds(self.server), *files])

    def check_base(self) -> None:
        """In the end nothing is held that was not held at the beginning."""
        try:
            eventually(lambda: self.held() <= self.base)
        except AssertionError:
            raise AssertionError(f"left behind: {self.held() - self.base}") from None

    def processes(self) -> list[tuple[str, psutil.Process]]:
        """Every process that is any agent's, with the agent's id."""
        found = []
        for process in psutil.process_iter():
            try:
                with open(f"/proc/{process.pid}/environ", "rb") as file:
                    environ = dict(
                        each.partition(b"=")[::2] for each in file.read().split(b"\0") if each
                    )
            except OSError:
                continue
            if environ.get(MARK.encode()) == self.mark.encode() and is_alive(process):
                found.append((environ[b"DESCARTES_AGENT_ID"].decode(), process))
        return found

    def check_events(self) -> None:
        """Every attempt of every agent came to one end, told once, live and from the journal."""
        last = self.client.server.hello().last_event
        seen = self.follower.until(last)
        check_numbers(seen)
        found = lives(seen)
        assert found.keys() == self.attempts.keys()
        for agent_id, attempts in found.items():
            due = self.attempts[agent_id]
            assert len(attempts) == due or (agent_id in self.restarting and len(attempts) > due)
        assert all(attempts[-1][-1] in ENDED for attempts in found.values())
        with Follower(str(self.server.admin)) as again:
            assert again.until(last)[:last] == seen[:last]
