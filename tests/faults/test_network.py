"""The network between client and server fails in every way: nothing is lost, nothing doubled."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from descartesd.client import Client
from descartesd.errors import (
    AbortedError,
    DeadlineExceededError,
    DescartesError,
    UnavailableError,
)
from descartesd.keys.profile import ClientSettings, Profile, create_profile, load_profile
from descartesd.wire.agent import (
    AgentFollow,
    AgentInfo,
    AgentList,
    AgentRef,
    AgentSpawn,
    Limits,
)
from descartesd.wire.event import Event, EventFollow
from descartesd.wire.methods import (
    AGENT_FOLLOW,
    AGENT_LIST,
    AGENT_SPAWN,
    AGENT_WAIT,
    EVENT_FOLLOW,
    SERVER_HELLO,
)
from descartesd.wire.server import Empty
from tests.support.agents import SLEEP, all_agents, carrying, left_empty, python, sh, spec
from tests.support.eventually import eventually
from tests.support.inloop import Connect, InLoop
from tests.support.proxy import Proxy
from tests.support.server import Server

QUICK = ClientSettings(
    heartbeat_interval_secs=0.15, reconnect_delay_secs=0.02, connection_timeout_secs=0.5
)
LINES = 200
# A line each hundredth of a second, then the end.
TALK = f"""
import os, time
for number in range({LINES}):
    os.write(1, b"line %06d\\n" % number)
    time.sleep(0.01)
"""
TROUBLES: dict[str, Callable[[Proxy], None]] = {}


def trouble(act: Callable[[Proxy], None]) -> Callable[[Proxy], None]:
    TROUBLES[act.__name__] = act
    return act


def in_mode(proxy: Proxy, mode: Any, seconds: float) -> None:
    proxy.mode = mode
    threading.Event().wait(seconds)
    proxy.mode = "pass"


@trouble
def delay(proxy: Proxy) -> None:
    in_mode(proxy, "delay", 1.0)


@trouble
def cut_three_times(proxy: Proxy) -> None:
    for _ in range(3):
        proxy.cut()
        threading.Event().wait(0.3)


@trouble
def cut_and_nobody_there(proxy: Proxy) -> None:
    proxy.mode = "refuse"
    proxy.cut()
    in_mode(proxy, "refuse", 1.0)


@trouble
def stall_for_long(proxy: Proxy) -> None:
    in_mode(proxy, "stall", 1.5)


@trouble
def half_open(proxy: Proxy) -> None:
    in_mode(proxy, "half-open", 1.5)


@trouble
def slow_close(proxy: Proxy) -> None:
    proxy.slow_close()
    threading.Event().wait(1.0)


def profile_through(proxy: Proxy, server: Server, settings: ClientSettings) -> Profile:
    admin = load_profile(str(server.admin))
    return replace(admin, endpoints=(f"tcp://127.0.0.1:{proxy.port}",), client=settings)


@pytest.fixture
def proxy(shared_server: Server) -> Iterator[Proxy]:
    with Proxy(shared_server.port) as running, shared_server.client() as client, left_empty(client):
        yield running


@pytest.fixture(params=[Client, InLoop], ids=["sync", "async"])
def connect(request: Any) -> Iterator[Connect]:
    """Makes clients of one kind, and closes them."""
    with ExitStack() as made:

        def make(profile: Profile, **options: Any) -> Any:
            client = request.param(profile, **options)
            made.callback(client.close)
            return client

        yield make


class Background:
    """A function in a thread of its own; what it returned or raised comes out of `result`."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self._error: BaseException | None = None
        self._value: Any = None
        self._thread = threading.Thread(target=self._run, name="background")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again by whoever waits
            self._error = error

    def result(self) -> Any:
        self._thread.join(timeout=40)
        assert not self._thread.is_alive()
        if self._error is not None:
            raise self._error
        return self._value


def followed(client: Client, agent_id: str) -> bytes:
    """All output of an agent, each chunk beginning where the one before it ended."""
    got = b""
    for chunk in client.agent.follow(id=agent_id, streams=["stdout"]):
        assert chunk.offset == len(got)
        got += chunk.data
    return got


def events_until_removed(client: Client, name: str, since: int) -> list[Event]:
    return list(until_removed(client.event.follow(since=since), name))


@pytest.mark.parametrize("name", TROUBLES)
def test_fault_70_streams_go_on_without_loss_or_repetition(
    name: str, proxy: Proxy, shared_server: Server
) -> None:
    news: list[str] = []
    profile = profile_through(proxy, shared_server, QUICK)
    with (
        Client(profile, wait_for_server_s=20, on_connection=lambda what, _: news.append(what)) as c,
        shared_server.client() as near,
    ):
        since = near.server.hello().last_event
        agent = c.agent.spawn(spec=python(TALK, name=f"talker-{name}".replace("_", "-")))
        output = Background(lambda: followed(c, agent.id))
        events = Background(lambda: events_until_removed(c, str(agent.name), since))
        keys = [f"{name}-{number}" for number in range(60)]
        spawned = Background(lambda: [spawn_once(c, key) for key in keys])

        TROUBLES[name](proxy)

        assert output.result() == b"".join(b"line %06d\n" % number for number in range(LINES))
        agents = spawned.result()
        near.agent.wait(id=agent.id)
        near.agent.remove(id=agent.id)
        told = events.result()

    assert [event.seq for event in told] == list(range(since + 1, since + 1 + len(told)))
    assert len({each.id for each in agents}) == len(keys)
    with shared_server.client() as near:
        labels = Counter(each.labels.get("key") for each in all_agents(near))
        assert labels == Counter(keys)
    assert news[0] == "up"
    assert name == "delay" or news[1:3] == ["lost", "up"]


def spawn_once(client: Client, key: str) -> AgentInfo:
    return client.agent.spawn(spec=spec("true", labels={"key": key}), idem=key)


def test_fault_70_both_sides_find_out_a_half_open_connection_within_ten_seconds(
    proxy: Proxy, shared_server: Server
) -> None:
    lost: list[float] = []

    def note(news: str, _: str) -> None:
        if news == "lost":
            lost.append(time.monotonic())

    profile = profile_through(proxy, shared_server, ClientSettings(connection_timeout_secs=0.5))
    with Client(profile, on_connection=note) as client:
        agent = client.agent.spawn(spec=spec(*SLEEP))
        wait = Background(lambda: client.agent.wait(id=agent.id))
        eventually(lambda: proxy.served == 1)
        # From the client's first heartbeat on the server knows how long it may be silent: that and
        # its answer are waited for, and what of the request may still have been on its way.
        passed = proxy.passed
        eventually(lambda: proxy.passed >= passed + 3, timeout=10)

        began = time.monotonic()
        proxy.mode = "half-open"
        # The server is first: the client's next question has still to go unanswered.
        eventually(lambda: proxy.served == 0, timeout=10)
        eventually(lambda: lost, timeout=began + 11 - time.monotonic())
        assert lost[0] - began < 10
        proxy.mode = "pass"
        # Its present attempt to connect may be one that is lost already.
        eventually(lambda: is_killed(client, agent.id), timeout=10)

        assert wait.result().outcome.reason == "killed"


def is_killed(client: Client, agent_id: str) -> bool:
    try:
        return client.agent.kill(id=agent_id).state == "terminated"
    except UnavailableError:
        return False


def test_fault_70_what_was_dropped_meanwhile_is_an_explicit_gap(
    proxy: Proxy, shared_server: Server, connect: Connect
) -> None:
    count = "for n in range({}, {}): os.write(1, b'%07d\\n' % n)\n"
    script = f"import os, sys\n{count.format(0, 10)}sys.stdin.readline()\n"
    talker = python(
        script + count.format(10, 100_000), stdin="pipe", limits=Limits(output_bytes=65_536)
    )
    with shared_server.client() as near:
        agent = near.agent.spawn(spec=talker)
        far = connect(profile_through(proxy, shared_server, QUICK), wait_for_server_s=20)
        request = AgentFollow(id=agent.id, streams=["stdout"])
        with far.stream(AGENT_FOLLOW, request) as chunks:
            got = [next(chunks)]
            proxy.mode = "refuse"
            proxy.cut()
            near.write(agent.id, b"go\n")
            near.agent.wait(id=agent.id)
            proxy.mode = "pass"
            got.extend(chunks)

    gaps = [
        (before.next_offset, after.offset)
        for before, after in itertools.pairwise(got)
        if before.next_offset != after.offset
    ]
    assert gaps
    assert all(end == got[-1].truncated_before for _, end in gaps)
    assert all(chunk.data == numbered(chunk.offset, len(chunk.data)) for chunk in got)
    assert got[-1].next_offset == 100_000 * 8


def numbered(offset: int, size: int) -> bytes:
    """These bytes of the numbers from 0 on, each a line of eight bytes."""
    first = offset // 8
    lines = b"".join(b"%07d\n" % n for n in range(first, (offset + size) // 8 + 1))
    return lines[offset - first * 8 :][:size]


def test_fault_32_what_a_client_gave_up_on_is_found_by_its_key_and_is_there_once(
    proxy: Proxy, shared_server: Server, connect: Connect
) -> None:
    client = connect(profile_through(proxy, shared_server, ClientSettings()))
    request = AgentSpawn(spec=spec(*SLEEP, name="late"))
    client.call(SERVER_HELLO, Empty())
    proxy.delay_s = 0.4
    proxy.mode = "delay"

    with pytest.raises(DeadlineExceededError) as caught:
        client.call(AGENT_SPAWN, request, deadline_s=0.6)
    proxy.mode = "pass"
    key = (caught.value.details or {})["idem"]
    agent = client.call(AGENT_SPAWN, request, idem=key)

    the_only_one(shared_server, agent.id)


def test_fault_32_the_command_line_tells_the_key_and_takes_it(
    proxy: Proxy, shared_server: Server, tmp_path: Path
) -> None:
    through = tmp_path / "through.toml"
    create_profile(str(through), profile_through(proxy, shared_server, ClientSettings()))
    proxy.delay_s = 0.3
    proxy.mode = "delay"
    command = ["agent", "spawn", "--name", "late"]
    slow = shared_server.ctl(
        "--json", "--wait-for-server", "9", "--timeout", "0.4", *command, "--", *SLEEP,
        profile=through,
    )  # fmt: skip
    proxy.mode = "pass"
    error = json.loads(slow.stderr)["error"]
    key = error["details"]["idem"]

    again = shared_server.ctl("--json", *command, "--idem", key, "--", *SLEEP, profile=through)

    assert (slow.returncode, again.returncode) == (6, 0)
    assert f"--idem {key}" in error["hint"]
    the_only_one(shared_server, json.loads(again.stdout)["id"])


def the_only_one(server: Server, agent_id: str) -> None:
    with server.client() as near:
        [agent] = all_agents(near)
    [process] = carrying("DESCARTES_AGENT_ID", agent_id)
    assert (agent.id, agent.pid) == (agent_id, process.pid)


class Load:
    """Starts one agent after another, each under a key and until it is answered; lists between."""

    def __init__(self, client: Any, name: str, runs: Path) -> None:
        self.answers: dict[str, AgentInfo] = {}
        self.is_over = False
        self._client = client
        self._name = name
        self._script = f'echo "$KEY" >> {runs}'

    def run(self) -> None:
        number = itertools.count()
        while not self.is_over:
            key = f"{self._name}-{next(number)}"
            request = AgentSpawn(spec=sh(self._script, env={"KEY": key}, labels={"key": key}))
            try:
                self.answers[key] = self._ask(AGENT_SPAWN, request, idem=key)
            except AbortedError:
                # Nothing was left half done: the next one has another key.
                continue
            self._ask(AGENT_LIST, AgentList(limit=3))

    def _ask(self, method: Any, request: Any, *, idem: str | None = None) -> Any:
        while True:
            try:
                return self._client.call(method, request, idem=idem)
            except DescartesError as error:
                if not error.retryable:
                    raise
                threading.Event().wait(0.02)

    def has_come_to(self, goal: int) -> bool:
        return len(self.answers) >= goal


def test_fault_62_clients_live_through_graceful_restarts_under_load(
    server: Server, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    runs.touch()
    profile = replace(load_profile(str(server.admin)), client=QUICK)
    with ExitStack() as opened:
        clients: list[Any] = [
            opened.enter_context(closing(kind(profile, wait_for_server_s=20)))
            for kind in (Client, Client, Client, InLoop)
        ]
        loads = [Load(client, f"c{number}", runs) for number, client in enumerate(clients)]
        works = [Background(load.run) for load in loads]
        for _ in range(2):
            each_goes_on(loads)
            assert server.stop() == 0
            server.start(wait=False)
        each_goes_on(loads)
        for load, work in zip(loads, works, strict=True):
            load.is_over = True
            work.result()

    answered = Counter(key for load in loads for key in load.answers)
    with server.client() as near:
        agents = all_agents(near)
        assert Counter(agent.labels["key"] for agent in agents) == answered
        ended = near.pipeline([(AGENT_WAIT, AgentRef(id=agent.id)) for agent in agents])
        ran = Counter(runs.read_text().split())
    assert max(ran.values()) == 1
    # An orderly stop of the server in the foreground ends its agents, however young.
    ended_early = {agent.labels["key"] for agent in ended if agent.outcome.reason == "stopped"}
    assert set(answered) - set(ran) <= ended_early


def each_goes_on(loads: list[Load]) -> None:
    for load in loads:
        goal = len(load.answers) + 5
        eventually(partial(load.has_come_to, goal), timeout=20)


def test_fault_62_followers_go_on_through_a_graceful_restart(
    server: Server, connect: Connect
) -> None:
    profile = replace(load_profile(str(server.admin)), client=QUICK)
    script = "echo first; trap 'echo last; exit' TERM; while :; do sleep 0.02; done"
    with server.client() as near:
        since = near.server.hello().last_event
        agent = near.agent.spawn(spec=sh(script, name="talker"))
    output, events = connect(profile), connect(profile)
    with (
        output.stream(AGENT_FOLLOW, AgentFollow(id=agent.id, streams=["stdout"])) as chunks,
        events.stream(EVENT_FOLLOW, EventFollow(since=since)) as told,
    ):
        got, seen = [next(chunks)], [next(told)]
        assert server.stop() == 0
        server.start()
        got.extend(chunks)
        with server.client() as near:
            near.agent.remove(id=agent.id)
        seen.extend(until_removed(told, "talker"))

    assert b"".join(chunk.data for chunk in got) == b"first\nlast\n"
    assert [event.seq for event in seen] == list(range(since + 1, since + 1 + len(seen)))
    assert {"server_stopping", "server_started"} <= {event.kind for event in seen}


def until_removed(events: Iterable[Event], name: str) -> Iterator[Event]:
    for event in events:
        yield event
        if event.kind == "removed" and event.name == name:
            return
