"""Faults of plugins: whatever one of them does, in whichever hook, only it suffers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from descartesd.client import Client
from descartesd.errors import PermissionDeniedError, UnauthenticatedError, UnavailableError
from tests.support.agents import SLEEP, spec
from tests.support.eventually import eventually
from tests.support.plugins import PluggedServer

# Vouches for keys by what a file says: one line for each, its key and how it is answered.
DOORMAN = """
    import asyncio, time
    from descartesd.api import KeyHolder, Struct, hookimpl

    class Doorman:
        class Config(Struct, frozen=True):
            book: str

        def __init__(self, config):
            self.book = config.book

        @hookimpl
        async def authenticate_key(self, key, address):
            with open(self.book) as file:
                answers = dict(line.split() for line in file)
            answer = answers.get(key)
            if answer == "hang":
                await asyncio.sleep(60)
            if answer == "slow":
                await asyncio.sleep(1)
            if answer == "fail":
                raise OSError("no directory")
            if answer == "junk":
                return "admin"
            if answer is not None:
                return KeyHolder(name="guest", role="observer" if answer == "slow" else answer)
"""


class Door:
    """A server whose plugin knows the keys in a book."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.book = directory / "book"
        self.book.touch()
        self.server = PluggedServer(
            {"doorman": DOORMAN},
            targets={"doorman": "Doorman"},
            settings={"plugins.hook_timeout_s": 1.5, "plugins.auth_cache_s": 0.2},
            configuration=f'[plugins.doorman]\nbook = "{self.book}"\n',
        )

    def profile(self, answer: str) -> Path:
        """A new key, for which the plugin has this answer."""
        public, secret = (key.decode() for key in zmq.curve_keypair())
        with self.book.open("a") as book:
            book.write(f"{public} {answer}\n")
        path = self.directory / f"{answer}.toml"
        path.touch(mode=0o600)
        path.write_text(
            f'endpoints = ["{self.server.endpoint}"]\nserver_keys = ["{self.server.public_key}"]\n'
            f'public_key = "{public}"\nsecret_key = "{secret}"\n'
        )
        return path


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    made = Door(tmp_path_factory.mktemp("door"))
    with made.server:
        made.server.start()
        yield made


def test_fault_14_a_slow_plugin_keeps_nobody_else_from_coming_in(door: Door) -> None:
    slow = door.profile("slow")
    came: list[float] = []

    def come_in() -> None:
        with Client(str(slow)) as client:
            client.server.hello()
        came.append(time.monotonic())

    began = time.monotonic()
    waiting = threading.Thread(target=come_in)
    waiting.start()
    took = []
    while waiting.is_alive() and len(took) < 10:
        before = time.monotonic()
        with door.server.client() as client:
            client.server.hello()
        took.append(time.monotonic() - before)
    waiting.join(10)

    assert came
    assert came[0] - began >= 1
    assert min(took) < 0.5


@pytest.mark.parametrize("answer", ["hang", "fail", "junk", "nobody-has-this-role"])
def test_fault_14_a_plugin_that_gives_no_answer_lets_nobody_in(door: Door, answer: str) -> None:
    with (
        pytest.raises((UnauthenticatedError, UnavailableError)),
        Client(str(door.profile(answer))) as client,
    ):
        client.server.hello()

    with door.server.client() as client:
        assert client.server.hello().identity.role == "admin"


def test_hook_authenticate_key_lets_in_with_the_role_it_says_and_only_as_long(door: Door) -> None:
    with Client(str(door.profile("observer"))) as client:
        hello = client.server.hello()
        with pytest.raises(PermissionDeniedError):
            client.agent.spawn(spec=spec(*SLEEP))
        door.book.write_text("")

        def is_out() -> bool:
            try:
                client.server.health(deadline_s=2)
            except (UnauthenticatedError, UnavailableError):
                return True
            return False

        eventually(is_out, timeout=10)

    assert hello.identity.name == "guest"
    assert hello.identity.role == "observer"
    assert hello.identity.id.startswith("key:SHA256:")


# -- every hook, every fault

FAULTY = """
    import asyncio, time
    from descartesd.api import hookimpl

    async def nothing(): ...

    FAULTS = {{
        "raises": lambda: 1 / 0,
        "hangs": lambda: time.sleep(2),
        "junk": lambda: object(),
        "leaks": lambda: nothing(),
    }}
    fault = FAULTS["{fault}"]

    @hookimpl
    def daemon_started(): return fault()

    @hookimpl
    def daemon_stopping(): return fault()

    @hookimpl
    def agent_started(agent): return fault()

    @hookimpl
    def agent_state_changed(agent, previous): return fault()

    @hookimpl
    def agent_event(event): return fault()

    @hookimpl
    def agent_exited(agent): return fault()

    @hookimpl
    def agent_spawning(spec, identity): return fault()
"""
FAULTS = ("raises", "hangs", "junk", "leaks")


def test_fault_67_a_plugin_that_fails_in_every_hook_harms_only_itself() -> None:
    settings = {"plugins.hook_timeout_s": 0.2, "plugins.bench_s": 60}
    sources = {f"p-{fault}": FAULTY.format(fault=fault) for fault in FAULTS}
    with PluggedServer(sources, settings=settings) as server:
        server.start()
        with server.client() as client:
            agents = [client.agent.spawn(spec=spec("true")) for _ in range(6)]
            ended = [client.agent.wait(id=agent.id) for agent in agents]
            took = []
            for _ in range(200):
                began = time.monotonic()
                client.agent.get(id=agents[0].id)
                took.append(time.monotonic() - began)
            listed = eventually(lambda: _all_benched(server), timeout=20)
            health = client.server.health()
            since = client.event.follow(since=0)
            benched = set()
            for event in since:
                if event.kind == "plugin_benched":
                    benched.add(event.data["plugin"])
                if len(benched) == len(FAULTS):
                    break
            since.close()
            late = time.monotonic()
            client.agent.wait(id=client.agent.spawn(spec=spec("true")).id)
            late = time.monotonic() - late
        status = server.stop()

    assert {agent.state for agent in ended} == {"completed"}
    assert sorted(took)[197] < 0.1
    assert all(each.errors >= 5 and each.last_error for each in listed)
    assert benched == set(sources)
    assert health.status == "degraded"
    assert all(name in str(health.reasons) for name in sources)
    # Nobody waits for those any more.
    assert late < 1
    assert status == 0


def _all_benched(server: PluggedServer) -> list:  # type: ignore[type-arg]
    found = [server.plugin(f"p-{fault}") for fault in FAULTS]
    return found if all(each.state == "benched" for each in found) else []


# -- a policy service

POLICE = """
    import os
    from descartesd.api import PermissionDeniedError, Struct, hookimpl

    class Police:
        class Config(Struct, frozen=True):
            order: str

        def __init__(self, config):
            self.order = config.order
            self.asked = 0

        @hookimpl
        def authorize_request(self, identity, method, target):
            with open(self.order + ".asked", "a") as file:
                print(method, target, file=file)
            with open(self.order) as file:
                order = file.read().split()
            if order[:1] == ["dead"]:
                raise ConnectionRefusedError("policy service")
            if method in order:
                raise PermissionDeniedError(f"{method} of {target} is not for {identity.role}")
            return True
"""


class Watched:
    """A server whose plugin refuses the methods in its orders."""

    def __init__(self, directory: Path) -> None:
        self.orders = directory / "orders"
        self.asked = directory / "orders.asked"
        self.give("")
        self.server = PluggedServer(
            {"police": POLICE},
            targets={"police": "Police"},
            settings={"plugins.auth_cache_s": 0.3, "plugins.bench_s": 0.3},
            configuration=f'[plugins.police]\norder = "{self.orders}"\n',
        )

    def give(self, orders: str) -> None:
        self.orders.write_text(orders)


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    made = Watched(tmp_path)
    with made.server:
        made.server.start()
        yield made


def test_hook_authorize_request_narrows_and_its_decision_is_kept(watched: Watched) -> None:
    watcher = watched.server.issue("watcher", "observer")
    with watched.server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP, name="web"))
        for _ in range(20):
            client.agent.get(id="web")
        asked = watched.asked.read_text().splitlines()
        watched.give("agent.kill agent.get")

        refused = eventually(lambda: _refused(client, agent.id), timeout=5)
        many = client.batch.run(verb="kill", ids=["web"])
        with watched.server.client(watcher) as other, pytest.raises(PermissionDeniedError):
            other.agent.spawn(spec=spec(*SLEEP))
        watched.give("")
        eventually(lambda: not _refused(client, agent.id), timeout=5)
        # Decided later, it is kept longer.
        eventually(lambda: _killed(client, "web"), timeout=5)

    assert asked.count(f"agent.get {agent.id}") < 10
    assert "agent.spawn web" in asked
    assert refused == f"agent.get of {agent.id} is not for admin"
    assert [item.ok for item in many.results] == [False]


def _killed(client: Client, agent: str) -> bool:
    try:
        return client.agent.kill(id=agent).state == "terminated"
    except PermissionDeniedError:
        return False


def _refused(client: Client, agent: str) -> str:
    try:
        client.agent.get(id=agent)
    except PermissionDeniedError as exc:
        return exc.message
    return ""


def test_fault_67_a_dead_policy_service_fails_closed_and_says_so(watched: Watched) -> None:
    with watched.server.client() as client:
        agent = client.agent.spawn(spec=spec(*SLEEP))
        follower = client.agent.follow(id=agent.id)
        watched.give("dead")

        refused = eventually(lambda: _refused(client, agent.id), timeout=5)
        with pytest.raises(PermissionDeniedError, match="plugin 'police' has to allow it"):
            list(follower)
        health = eventually(lambda: _degraded(client, agent.id), timeout=10)
        # What tells of it is not refused.
        assert client.server.hello().identity.role == "admin"
        listed = {each.name: each for each in client.plugin.list().plugins}

        watched.give("")
        eventually(lambda: not _refused(client, agent.id), timeout=10)
        client.agent.kill(id=agent.id)

    assert "gave no answer: ConnectionRefusedError: policy service" in refused
    assert "plugin 'police' is benched" in health
    assert listed["police"].errors >= 5


def _degraded(client: Client, agent: str) -> str:
    _refused(client, agent)
    return next((each for each in client.server.health().reasons if "police" in each), "")
