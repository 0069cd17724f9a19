"""Secrets appear nowhere: planted in every place that takes one, and looked for in all we write."""

from __future__ import annotations

import base64
import dataclasses
import importlib
import inspect
import pkgutil
import secrets
import tomllib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

import descartesd
from descartesd.client import Client
from descartesd.errors import DescartesError
from descartesd.keys.curve import generate, pair_of
from descartesd.keys.join import parse_join
from descartesd.keys.profile import Profile
from descartesd.keys.z85 import decode_key, encode_key
from descartesd.wire.agent import AgentSpec, Tty
from descartesd.wire.batch import Selector
from descartesd.wire.masking import is_secret
from tests.faults.peers import Peers
from tests.support.eventually import eventually
from tests.support.server import Server, running

NAMES = ("API_TOKEN", "SSHPASS", "PRIVATEKEY", "SESSION_COOKIE", "GH_PAT", "DB_PASSWORD")
# Needed at every start: the registry keeps it, which nobody else can read.
KEPT = frozenset(f"env{name}" for name in NAMES)

# A terminal shows what is typed otherwise.
SILENT = "stty -echo; echo ready; sleep 600"


def planted(kind: str) -> str:
    return f"PLANTED{kind}{secrets.token_hex(12)}"


class Everything:
    """What was planted, by its kind, and all that was written or answered."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}
        self.said: dict[str, str] = {}

    def plant(self, kind: str) -> str:
        self.secrets[kind] = planted(kind)
        return self.secrets[kind]

    def keep(self, where: str, text: object) -> None:
        said = text.decode("utf-8", "replace") if isinstance(text, bytes) else repr(text)
        self.said[where] = f"{self.said.get(where, '')}\n{said}"

    def refused(self, where: str, work: Any) -> None:
        with pytest.raises(DescartesError) as refusal:
            work()
        error = refusal.value
        self.keep(where, (str(error), repr(error), error.message, error.hint, error.details))

    def leaks(self) -> list[str]:
        return [
            f"{kind} in {where}"
            for kind, secret in self.secrets.items()
            for where, text in self.said.items()
            if secret in text
        ]


@pytest.fixture
def server() -> Iterator[Server]:
    with running({"monitoring.log_level": "trace"}) as made:
        yield made


def spawn_with_secrets(client: Client, every: Everything, server: Server) -> str:
    env_file = server.root / "secrets.env"
    env_file.write_text(f"FROM_FILE={every.plant('envfile')}\n")
    env_file.chmod(0o600)
    hidden = {"HIDDEN": every.plant("secretenv")}
    spec = AgentSpec(
        name="keeper-of-secrets",
        command=["sh", "-c", "sleep 600"],
        env={name: every.plant(f"env{name}") for name in NAMES},
        env_file=str(env_file),
        secret_env=["HIDDEN"],
        stdin="pipe",
    )
    agent = client.agent.spawn(spec=spec, secrets=hidden, idem="planted")
    every.keep("agent.spawn", msgspec.json.encode(agent))
    client.agent.write(id=agent.id, data=every.plant("stdin").encode())
    client.agent.stop(id=agent.id)
    client.agent.respawn(id=agent.id, secrets={"HIDDEN": every.plant("respawn")})
    batch = client.batch.spawn(
        specs=[AgentSpec(command=["sleep", "600"], secret_env=["HIDDEN"])],
        secrets={"HIDDEN": every.plant("batch")},
    )
    every.keep("batch.spawn", msgspec.json.encode(batch))
    typed = client.agent.spawn(spec=AgentSpec(command=["sh", "-c", SILENT], tty=Tty()))
    eventually(lambda: b"ready" in client.agent.output(id=typed.id, stream="stdout").data)
    client.agent.write(id=typed.id, data=every.plant("terminal").encode())
    return agent.id


def be_refused(client: Client, every: Everything, agent_id: str) -> None:
    """Ask for what cannot be, with a secret in it."""
    bad = every.plant("refused")
    spec = AgentSpec(command=["/nowhere/at/all"], secret_env=["HIDDEN"], env={"A_TOKEN": bad})
    every.refused("no program", lambda: client.agent.spawn(spec=spec, secrets={"HIDDEN": bad}))
    every.refused("no name", lambda: client.agent.spawn(spec=spec, secrets={"OTHER": bad}))
    nul = AgentSpec(command=["true"], env={"A_TOKEN": f"{bad}\0"})
    every.refused("a NUL", lambda: client.agent.spawn(spec=nul))
    every.refused("another request", lambda: client.agent.spawn(spec=nul, idem="planted"))
    every.refused("no chat", lambda: client.agent.say(id=agent_id, text=bad))
    every.refused(
        "a batch",
        lambda: client.batch.run(verb="stop", select=Selector(all=True), params={"grace_s": bad}),
    )
    every.refused("an action", lambda: client.action.run(name="get_env", params={"nothing": bad}))


def be_malformed(server: Server, every: Everything) -> None:
    """Send what no client of ours would, with a secret in a place of another type."""
    bad = every.plant("malformed")
    wrong: list[dict[str, Any]] = [
        {"spec": {"command": ["true"], "env": {"A_TOKEN": [bad]}}},
        {"spec": {"command": ["true"], "env": bad}},
        {"spec": {"command": ["true"], "limits": {"memory_bytes": bad}}},
        {"spec": {"command": ["true"]}, "secrets": {"A": {"b": bad}}},
        {"spec": {"command": ["true"]}, "secrets": {"A": bad}},
        {"spec": {"command": ["true"]}, "secrets": {"A": bad * 5000}},
    ]
    with Peers(server) as peers:
        peer = peers.connect(timeout=10)
        for params in wrong:
            answer = peer.ask("agent.spawn", params)
            assert answer["error"]["code"] == "invalid_argument", params
            every.keep("refusal of what is malformed", answer)


def plant_keys(server: Server, every: Everything) -> None:
    """The keys there are, in each form one could be written in."""
    for name, path in (
        ("host", server.directory / "keys" / "host.key"),
        ("authority", server.directory / "keys" / "authority.key"),
        ("admin", server.admin),
    ):
        table = tomllib.loads(path.read_text())
        text = table.get("secret-key") or table["secret_key"]
        secret = decode_key(text)
        every.secrets[f"{name} key"] = text
        every.secrets[f"{name} key in hex"] = secret.hex()
        every.secrets[f"{name} key in base64"] = base64.b64encode(secret).decode()[:42]
        every.secrets[f"{name} key as bytes"] = repr(secret)[2:-1]
    digest = (server.directory / "state" / "digest.key").read_bytes()
    every.secrets["digest key"] = digest.hex()


def join_by_token(server: Server, client: Client, every: Everything) -> None:
    made = client.cert.token(role="observer")
    every.secrets["token"] = made.join.rpartition(":")[2]
    every.keep("repr of a join string", made)
    bad = server.ctl("login", f"{made.join[:-3]}", profile=server.admin)
    every.keep("a wrong join string", bad.stdout + bad.stderr)
    introduction = client.cert.token(introduction=True)
    every.secrets["introduction key"] = introduction.join.rpartition(":")[2]
    every.keep("repr of a join string", introduction)
    parsed = parse_join(made.join)
    pair = pair_of(parsed.token)
    every.keep("repr of a join string", (parsed, pair))
    server_key = encode_key(parsed.server_key)
    guest = Profile((server.endpoint,), (server_key,), pair.public_text, pair.secret_text)
    every.keep("repr of a profile", guest)
    own = generate()
    every.secrets["key of the guest"] = own.secret_text
    with Client(guest) as joining:
        every.keep("repr of a client", joining)
        every.refused("a token used for nobody", lambda: joining.cert.enroll(public_key="x" * 40))
        every.keep("cert.enroll", joining.cert.enroll(public_key=own.public_text, name="by-token"))
    every.keep("cert.list", msgspec.json.encode(client.cert.list()))


def rotate(server: Server, client: Client, every: Everything) -> None:
    """Make keys anew: what rotation leaves behind is secret as well."""
    for what in ("host", "authority"):
        every.keep("cert.rotate", client.cert.rotate(what=what, overlap_s=86_400.0))
    keys = server.directory / "keys"
    for path in keys.rglob("*"):
        if path.is_file() and path.suffix != ".pub":
            secret = tomllib.loads(path.read_text())["secret-key"]
            every.secrets[f"{path.name} after a rotation"] = secret


def use_a_passphrase(server: Server, every: Everything) -> None:
    """Make an off-line authority and sign by it, once with a passphrase that is wrong."""
    phrase = server.root / "passphrase"
    locked = ("--passphrase-file", str(phrase))
    key = str(server.root / "offline.key")
    for text, words in (
        (every.plant("passphrase"), ("--create", key)),
        (every.plant("wrongphrase"), ()),
    ):
        phrase.write_text(f"{text}\n")
        phrase.chmod(0o600)
        noun = ("authority", *words) if words else ("issue", "robot", "--authority", key)
        more = () if words else ("--role", "observer", "--out", str(server.root / "robot.toml"))
        done = server.ctl("cert", *noun, *more, *locked)
        assert (done.returncode == 0) == bool(words), done.stderr
        every.keep("an off-line authority", done.stdout + done.stderr)


def gather(server: Server, client: Client, every: Everything, agent_id: str) -> None:
    """All that the server answers and the command line prints."""
    for name in ("health", "stats", "hello", "methods"):
        every.keep(f"server.{name}", msgspec.json.encode(getattr(client.server, name)()))
    last = client.server.hello().last_event
    with client.event.follow(since=0) as events:
        for event in events:
            every.keep("events", msgspec.json.encode(event))
            every.keep("repr of events", event)
            if event.seq >= last:
                break
    every.keep("repr of an agent", client.agent.get(id=agent_id))
    every.keep("audit.show", msgspec.json.encode(client.audit.show(limit=1000)))
    for words in (
        *(("agent", "list"), ("agent", "show", agent_id), ("agent", "stop", "--all", "--dry-run")),
        *(("cert", "list"), ("cert", "show", "admin"), ("audit", "show", "--limit", "999")),
        *(("audit", "verify"), ("server", "health"), ("server", "stats"), ("server", "info")),
        ("doctor",),
    ):
        for form in ((), ("--json",)):
            done = server.ctl(*form, *words)
            every.keep(f"descartesctl {' '.join(words)}", done.stdout + done.stderr)


def test_fault_34_no_secret_is_in_anything_we_write_or_answer(server: Server) -> None:
    every = Everything()
    plant_keys(server, every)
    with server.client() as client:
        agent_id = spawn_with_secrets(client, every, server)
        be_refused(client, every, agent_id)
        be_malformed(server, every)
        join_by_token(server, client, every)
        use_a_passphrase(server, every)
        rotate(server, client, every)
        gather(server, client, every, agent_id)
        client.agent.kill(id=agent_id)
    server.crash_and_restart()
    server.stop()
    every.keep("the log", server.log.read_bytes())
    state = server.directory / "state"
    every.keep("the keeper's log", (state / "keeper.log").read_bytes())
    every.keep("the audit log", (state / "audit.jsonl").read_bytes())
    # What a disk must not keep is not even where only the server can read it.
    on_disk = Everything()
    on_disk.secrets = {kind: each for kind, each in every.secrets.items() if kind not in KEPT}
    for path in state.rglob("*"):
        if path.is_file():
            on_disk.keep(f"{path.relative_to(state)}", path.read_bytes())

    # What has to be there is found, so what must not be would be as well.
    assert every.secrets["envGH_PAT"] in on_disk.said["registry.sqlite"]
    assert on_disk.leaks() == []
    assert len(every.secrets) > 30
    assert all(every.said.values())
    assert every.leaks() == []


def test_what_is_looked_for_would_be_found() -> None:
    every = Everything()
    every.keep("a log", f"... {every.plant('env')} ...".encode())

    assert every.leaks() == ["env in a log"]


# What holds a secret, or what a user would take for one, by the names of fields.
SENSITIVE = {
    *("env", "env_over", "environ", "stdin_data", "secrets", "secret", "seed"),
    *("join", "token", "passphrase", "text"),
}
# Shown on purpose: these hold names alone, or what the agent itself has said.
SHOWN = {
    "wire.agent.AgentSpec.secret_env",
    "config.role.Role.env",
    "config.schema.Server.make_missing_keys",
}


def records() -> Iterator[tuple[str, type, list[str]]]:
    for module in pkgutil.walk_packages(descartesd.__path__, "descartesd."):
        if module.name.endswith("__main__"):
            continue
        home = importlib.import_module(module.name)
        for name, kind in vars(home).items():
            if not inspect.isclass(kind) or kind.__module__ != home.__name__:
                continue
            fields = _fields(kind)
            if fields:
                yield f"{module.name.removeprefix('descartesd.')}.{name}", kind, fields


def _fields(kind: type) -> list[str]:
    if issubclass(kind, msgspec.Struct):
        return list(kind.__struct_fields__)
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return list(getattr(kind, "_fields", ())) if issubclass(kind, tuple) else []


def _is_sensitive(name: str) -> bool:
    if name.startswith(("public", "max_", "key")) or "server_key" in name:
        return False
    return name in SENSITIVE or (is_secret(name) and "tokens" not in name)


CASES = [
    pytest.param(kind, fields, id=path)
    for path, kind, fields in records()
    if any(_is_sensitive(name) and f"{path}.{name}" not in SHOWN for name in fields)
]


@pytest.mark.parametrize(("kind", "fields"), CASES)
def test_fault_34_the_repr_of_no_record_shows_its_secret(kind: type, fields: list[str]) -> None:
    secret = planted("repr")
    holders: dict[type, Any] = {str: secret, bytes: secret.encode(), dict: {"A_TOKEN": secret}}
    seen = []
    for holder in holders.values():
        values = {name: holder if _is_sensitive(name) else _plain(name) for name in fields}
        try:
            made = _made(kind, values)
            seen.append(repr(made))
        except (TypeError, ValueError, AttributeError):
            # Its repr needs the secret to be of another of these types.
            continue

    assert seen
    assert not [text for text in seen if secret in text]


def _made(kind: type, values: dict[str, Any]) -> Any:
    if dataclasses.is_dataclass(kind) and not issubclass(kind, msgspec.Struct):
        made = object.__new__(kind)
        for name, value in values.items():
            object.__setattr__(made, name, value)
        return made
    return kind(**values)


def _plain(name: str) -> Any:
    if name == "spec":
        return AgentSpec(command=["x"])
    return bytes(32) if name in ("public", "server") else ["x"]
