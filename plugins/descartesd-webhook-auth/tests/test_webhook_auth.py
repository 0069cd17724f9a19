"""A real server that asks a real HTTP service, which answers, hangs, talks junk or is down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from descartesd_webhook_auth import Plugin
from descartesd_webhook_auth.service import NoAnswerError
from descartesd_webhook_auth.settings import Config

from descartesd.api import Identity
from descartesd.client import Client
from descartesd.errors import PermissionDeniedError, UnauthenticatedError
from tests.support.agents import SLEEP, spec
from tests.support.certificates import Certificates
from tests.support.eventually import eventually
from tests.support.server import Server

TOKEN = "s3cr3t-t0ken"
Answer = Callable[["Handler", dict[str, Any]], None]


class Handler(BaseHTTPRequestHandler):
    """Notes what it is asked, and does as the service is told."""

    server: PolicyService  # type: ignore[assignment]

    def do_POST(self) -> None:
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(question)
        self.server.headers.append(dict(self.headers.items()))
        self.server.answer(self, question)

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def tell(self, **answer: object) -> None:
        self.reply(json.dumps(answer).encode())

    def log_message(self, *_: object) -> None:
        return


class PolicyService(ThreadingHTTPServer):
    """Allows everything until it is told otherwise."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Answer = allow
        self.released = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/decide?from=descartesd"

    def handle_error(self, *_: object) -> None:
        """Who goes before the answer has come is no affair of ours."""

    def close(self) -> None:
        self.released.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


def allow(handler: Handler, _question: dict[str, Any]) -> None:
    handler.tell(allow=True)


def refuse_kills(handler: Handler, question: dict[str, Any]) -> None:
    if question["method"] == "agent.kill":
        handler.tell(allow=False, reason="not on\na \x1b[31mFriday")
    else:
        handler.tell(allow=True)


def hang(handler: Handler, _question: dict[str, Any]) -> None:
    handler.server.released.wait(30)


def drip(handler: Handler, _question: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.end_headers()
    while not handler.server.released.wait(0.05):
        handler.wfile.write(b" ")


def flood(handler: Handler, _question: dict[str, Any]) -> None:
    handler.reply(b" " * 1_000_000 + b'{"allow":true}')


def redirect(handler: Handler, _question: dict[str, Any]) -> None:
    handler.reply(b"", 302, Location=handler.server.url)


def junk(body: bytes, status: int = 200) -> Answer:
    return lambda handler, _question: handler.reply(body, status)


def slam(handler: Handler, _question: dict[str, Any]) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def no_http(handler: Handler, _question: dict[str, Any]) -> None:
    handler.wfile.write(b"\x00\x01 hello\r\n\r\n")


def cut_short(handler: Handler, _question: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"allow":true}')


class Guarded:
    """A server that asks a service, and forgets at once what it was told."""

    def __init__(
        self, url: str, settings: dict[str, object] | None = None, **table: object
    ) -> None:
        cache: dict[str, object] = {"plugins.auth_cache_s": 0, "plugins.bench_failures": 1000}
        self.server = Server(cache | (settings or {}))
        with self.server.config.open("a") as file:
            file.write('\n[plugins]\nenabled = ["webhook-auth"]\n[plugins.webhook-auth]\n')
            for name, value in ({"url": url, "timeout_s": 0.5} | table).items():
                file.write(f"{name} = {json.dumps(value)}\n")


@pytest.fixture(scope="module")
def service() -> Iterator[PolicyService]:
    made = PolicyService()
    yield made
    made.close()


@pytest.fixture(scope="module")
def token_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("token") / "token"
    path.touch(mode=0o600)
    path.write_text(f"{TOKEN}\n")
    return path


@pytest.fixture(scope="module")
def guarded(service: PolicyService, token_file: Path) -> Iterator[Guarded]:
    made = Guarded(
        service.url,
        token_file=str(token_file),
        key_url=service.url.replace("/decide", "/key"),
    )
    with made.server as server:
        server.start()
        yield made


@pytest.fixture
def client(guarded: Guarded, service: PolicyService) -> Iterator[Client]:
    service.answer = allow
    with guarded.server.client() as connected:
        yield connected
    service.answer = allow
    service.released.set()
    service.released = threading.Event()


def refusal(client: Client) -> PermissionDeniedError:
    with pytest.raises(PermissionDeniedError) as told:
        client.agent.list()
    return told.value


def test_service_is_asked_who_wants_what(client: Client, service: PolicyService) -> None:
    agent = client.agent.spawn(spec=spec(*SLEEP))
    service.asked.clear()
    client.agent.kill(id=agent.id)

    (question,) = service.asked
    assert question["identity"].startswith("key:SHA256:")
    assert question["role"] == "admin"
    assert (question["method"], question["target"]) == ("agent.kill", agent.id)
    assert question["name"] == "admin"


def test_service_is_shown_the_token_and_nobody_else_sees_it(
    client: Client, guarded: Guarded, service: PolicyService
) -> None:
    client.agent.list()

    assert service.headers[-1]["Authorization"] == f"Bearer {TOKEN}"
    assert service.headers[-1]["Content-Type"] == "application/json"
    assert TOKEN not in guarded.server.log_text()


def test_refusal_is_told_with_its_reason_in_one_line(
    client: Client, service: PolicyService
) -> None:
    agent = client.agent.spawn(spec=spec(*SLEEP))
    service.answer = refuse_kills

    with pytest.raises(PermissionDeniedError) as told:
        client.agent.kill(id=agent.id)
    service.answer = allow
    client.agent.kill(id=agent.id)

    assert "does not allow agent.kill to key:SHA256:" in told.value.message
    assert told.value.message.endswith(": not on a [31mFriday")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (hang, "it did not answer within 0.5 s"),
        (drip, "it did not answer within 0.5 s"),
        (junk(b"", 500), "it answered with the status 500"),
        (junk(b'{"allow":true}', 403), "it answered with the status 403"),
        (redirect, "it answered with the status 302"),
        (junk(b"yes"), "something else than was agreed on"),
        (junk(b'{"allow":"true"}'), "something else than was agreed on"),
        (junk(b'{"allow":1}'), "something else than was agreed on"),
        (junk(b"{}"), "something else than was agreed on"),
        (junk(b"[" * 60_000), "something else than was agreed on"),
        (junk(b'{"allow":true} {"allow":false}'), "something else than was agreed on"),
        (flood, "more than 65536 bytes"),
        (slam, "it cannot be asked"),
        (no_http, "it cannot be asked"),
        (cut_short, "it cannot be asked"),
    ],
)
def test_whatever_is_no_answer_refuses_and_says_so(
    client: Client, service: PolicyService, answer: Answer, told: str
) -> None:
    service.answer = answer

    refused = refusal(client)

    assert "agent.list is refused: plugin 'webhook-auth' has to allow it" in refused.message
    assert told in refused.message
    service.answer = allow
    assert _works(client)


def test_answer_in_chunks_is_an_answer(client: Client, service: PolicyService) -> None:
    def chunked(handler: Handler, _question: dict[str, Any]) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for part in (b'{"allow"', b":true}", b""):
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))

    service.answer = chunked

    assert _works(client)


def test_service_that_hangs_holds_up_nobody_else(
    client: Client, guarded: Guarded, service: PolicyService
) -> None:
    service.answer = hang
    with guarded.server.client() as other:
        waits = threading.Thread(target=refusal, args=(other,))
        waits.start()
        began = time.monotonic()
        for _ in range(20):
            client.server.health()
        took = time.monotonic() - began
        waits.join()

    assert took < 0.4


def test_fault_67_a_policy_service_that_is_down_refuses_and_is_told_of(tmp_path: Path) -> None:
    service = PolicyService()
    settings = {"plugins.bench_failures": 3, "plugins.bench_calls": 5, "plugins.bench_s": 0.2}
    with Guarded(service.url, settings).server as server:
        server.start()
        with server.client() as client:
            client.agent.list()
            service.close()
            assert "it cannot be asked: " in refusal(client).message
            for _ in range(3):
                refusal(client)
            # What tells of it is never put to the service.
            reasons = client.server.health().reasons
            listed = {each.name: each for each in client.plugin.list().plugins}["webhook-auth"]
            again = PolicyService(service.server_port)
            try:
                eventually(lambda: _works(client), timeout=5)
            finally:
                again.close()
        log = server.log_text()

    assert any("plugin 'webhook-auth' is benched" in each for each in reasons)
    assert listed.errors >= 3
    assert log.count("webhook-auth.down") == 1
    assert log.count("webhook-auth.up") == 1


def _works(client: Client) -> bool:
    try:
        client.agent.list()
    except PermissionDeniedError:
        return False
    return True


def test_decision_is_kept_as_long_as_the_server_is_told_to(service: PolicyService) -> None:
    with Guarded(service.url, {"plugins.auth_cache_s": 60}).server as server:
        server.start()
        with server.client() as client:
            service.asked.clear()
            for _ in range(10):
                client.agent.list()

    assert [each["method"] for each in service.asked] == ["agent.list"]


def test_only_what_is_configured_is_asked_about(service: PolicyService) -> None:
    made = Guarded(service.url, methods=["agent.k*"], exempt=["uid:0"])
    service.answer = refuse_kills
    with made.server as server:
        server.start()
        with server.client() as client:
            service.asked.clear()
            agent = client.agent.spawn(spec=spec(*SLEEP))
            with pytest.raises(PermissionDeniedError, match="Friday"):
                client.agent.kill(id=agent.id)
    service.answer = allow

    assert [each["method"] for each in service.asked] == ["agent.kill"]


def test_exempt_identity_can_act_while_the_service_is_down() -> None:
    made = Guarded("http://127.0.0.1:9/", exempt=[f"uid:{os.geteuid()}"])
    with made.server as server:
        server.start()
        with server.client(server.local) as local:
            assert local.agent.list().total == 0
        with server.client() as client:
            refusal(client)


def profile_of(server: Server, directory: Path) -> tuple[Path, str]:
    """A profile with a key nobody knows."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    path = directory / "guest.toml"
    path.touch(mode=0o600)
    path.write_text(
        f'endpoints = ["{server.endpoint}"]\nserver_keys = ["{server.public_key}"]\n'
        f'public_key = "{public}"\nsecret_key = "{secret}"\n'
    )
    return path, public


def test_service_vouches_for_a_key(
    client: Client, guarded: Guarded, service: PolicyService, tmp_path: Path
) -> None:
    profile, public = profile_of(guarded.server, tmp_path)

    def vouch(handler: Handler, question: dict[str, Any]) -> None:
        handler.tell(allow=question.get("key") in (public, None), name="guest", role="observer")

    service.answer = vouch
    with guarded.server.client(profile) as guest:
        identity = guest.server.hello().identity

    assert (identity.role, identity.name) == ("observer", "guest")


@pytest.mark.parametrize(
    "answer",
    [
        junk(b'{"allow":false,"name":"guest","role":"observer"}'),
        junk(b'{"allow":true,"name":"guest","role":"admin"}'),
        junk(b'{"allow":true,"name":"","role":"observer"}'),
        junk(b'{"name":"guest","role":"observer"}'),
        junk(b"", 500),
        hang,
    ],
)
def test_key_the_service_does_not_vouch_for_is_refused(
    client: Client, guarded: Guarded, service: PolicyService, tmp_path: Path, answer: Answer
) -> None:
    profile, _ = profile_of(guarded.server, tmp_path)
    service.answer = answer

    with pytest.raises(UnauthenticatedError), guarded.server.client(profile) as guest:
        guest.server.hello()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificates")
def test_service_is_believed_only_with_the_right_certificate(tmp_path: Path) -> None:
    made = Certificates(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(made.path("server.pem"), made.path("server.key"))
    service = PolicyService(tls=tls)
    url = f"https://127.0.0.1:{service.server_port}/"
    try:
        with Guarded(url, ca=made.path("ca.pem")).server as server:
            server.start()
            with server.client() as client:
                assert client.agent.list().total == 0
        with Guarded(url).server as server:
            server.start()
            with server.client() as client:
                assert "its certificate is not good" in refusal(client).message
    finally:
        service.close()


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"url": "http://policy.example/"}, "url: expected https for the host 'policy.example'"),
        ({"url": "https://user:word@policy.example/"}, "Expected `str` matching"),
        ({"url": ""}, "url: expected an http or https URL"),
        ({"url": "https://policy.example:99999/"}, "is no URL"),
        ({"url": "https://policy.example/\r\nX: y"}, "Expected `str` matching"),
        ({"url": "http://[::1]:80/", "key_url": "http://10.0.0.1/"}, "key_url: expected https"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(table: dict[str, str], told: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=told):
        msgspec.convert(table, Config)


def test_token_others_can_read_stops_the_start(service: PolicyService, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    made = Guarded(service.url, token_file=str(path))
    with made.server as server:
        server.start(wait=False)
        assert server.process is not None
        assert server.process.wait(timeout=20) == 78
        said = server.log_text()

    assert "can be read by others: chmod 600 it" in said
    assert TOKEN not in said


def test_token_that_is_renewed_is_shown_at_the_next_question(
    client: Client, service: PolicyService, token_file: Path
) -> None:
    token_file.write_text("another")
    try:
        client.agent.list()
        assert service.headers[-1]["Authorization"] == "Bearer another"
        token_file.write_text("not a token\n")
        assert "it cannot be asked" in refusal(client).message
    finally:
        token_file.write_text(f"{TOKEN}\n")


def test_answers_are_counted(service: PolicyService) -> None:
    plugin = Plugin(Config(url=service.url))
    (metric,) = plugin.register_metrics()
    identity = Identity(id="uid:0", role="admin")

    async def ask() -> None:
        for answer in (allow, allow, refuse_kills, slam):
            service.answer = answer
            with contextlib.suppress(PermissionDeniedError, NoAnswerError):
                await plugin.authorize_request(identity, "agent.kill", None)

    asyncio.run(ask())
    service.answer = allow

    found = {each.labels["answer"]: each.value for each in metric.read()}  # type: ignore[union-attr]
    assert found == {"allow": 2, "deny": 1, "none": 1}
