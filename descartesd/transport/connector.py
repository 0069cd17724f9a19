"""Gets a connection and gets it back: which endpoint and key to try when, and when to give up."""

from __future__ import annotations

import math
from collections import Counter, deque
from typing import NamedTuple

import zmq

from descartesd.errors import DescartesError, InvalidArgumentError, UnavailableError
from descartesd.keys.curve import read_server_public
from descartesd.keys.profile import UNIX, Profile, with_server_key
from descartesd.keys.z85 import decode_key
from descartesd.transport import causes
from descartesd.transport.backoff import Backoff
from descartesd.transport.link import Change, CurveKeys, Link

# A server that dies in a handshake looks like one that holds another key, but not three times.
_STRIKES = 3


class _Route(NamedTuple):
    endpoint: str
    server_key: bytes


class Connector:
    """Holds at most one link. Each round tries every endpoint with every key, then pauses.

    What only time can heal (nobody answers) is tried again for as long as anybody wants the
    connection; an endpoint that refuses the key or cannot prove its own is not, and when all do
    that, `advance` returns the error.
    """

    def __init__(
        self, profile: Profile, context: zmq.Context[zmq.Socket[bytes]], *, attempt_s: float
    ) -> None:
        if not profile.endpoints:
            raise InvalidArgumentError("the profile names no endpoint")
        self._profile = profile
        self._context = context
        self._attempt_s = attempt_s / len(profile.endpoints)
        self._keys = _client_keys(profile)
        settings = profile.client
        self._heartbeat_s = settings.heartbeat_interval_secs if settings.enable_heartbeat else 0.0
        self._first_pause_s = settings.reconnect_delay_secs
        self._backoff = Backoff(self._first_pause_s)
        self._rounds_left = math.inf
        self._plan: deque[str] = deque()
        self._routes: deque[_Route] = deque()
        self._route = _Route(profile.endpoints[0], b"")
        self._home = ""
        self._strikes: Counter[str] = Counter()
        self._verdicts: dict[str, DescartesError] = {}
        self._trouble: DescartesError | None = None
        self._silence: DescartesError | None = None
        self._until = math.inf
        self._retry_at = math.inf
        self.link: Link | None = None
        self.generation = 0

    @property
    def is_up(self) -> bool:
        """Whether requests can be sent now."""
        return self.link is not None and self.link.is_up

    @property
    def wake_at(self) -> float:
        """When `advance` must be called even if nothing is heard; clock time."""
        return min(self._until, self._retry_at)

    @property
    def endpoint(self) -> str:
        """The endpoint connected to, or tried last."""
        return self._route.endpoint

    def also_accept(self, key: str) -> None:
        """From now on the server may have this key (Z85) as well, as it has said itself."""
        self._profile = with_server_key(self._profile, key)

    def want(self, now: float) -> None:
        """Somebody waits for the connection: try soon, however long the pause had become."""
        if self.link is not None:
            return
        if self._retry_at == math.inf:
            self._retry_at = now
        elif self._retry_at - now > self._first_pause_s:
            self._backoff.reset()
            self._retry_at = now + self._backoff.pause()

    def retry(self, now: float) -> None:
        """The connection was lost and is still wanted."""
        self._rounds_left = self._profile.client.max_reconnect_attempts or math.inf
        self._retry_at = now + self._backoff.pause()

    def advance(self, now: float) -> Change | DescartesError | None:
        """What has happened: `up`, `lost`, or the error that ends all hope; else None."""
        while True:
            if self.link is not None:
                change = self.link.change()
                if change is None and now >= self._until:
                    change = "silent"
                if change is None:
                    return None
                if change in {"up", "lost"}:
                    self._settle()
                    return change
                self.drop()
                self._note(change)
            elif now >= self._retry_at:
                self._retry_at = math.inf
                self._plan_round()
            else:
                return None
            error = self._next_attempt(now)
            if error is not None:
                return error

    def drop(self, linger_ms: int = 0) -> None:
        """Close the link, if there is one."""
        if self.link is not None:
            self.link.close(linger_ms)
            self.link = None
            self.generation += 1
        self._until = math.inf

    def rest(self) -> None:
        """Nobody wants the connection: make no further attempt."""
        if self.link is not None and not self.link.is_up:
            self.drop()
        if self.link is None:
            self._retry_at = math.inf
            self._forget_failures()

    def reason(self, deadline_s: float | None = None) -> DescartesError:
        """Why nothing can be sent at this moment; `deadline_s` when the wait ended by that."""
        if self.is_up:
            return causes.does_not_read(self.endpoint)
        for error in self._verdicts.values():
            return causes.fresh(error)
        if deadline_s is not None and self._trouble is self._silence:
            return causes.not_connected(self._route.endpoint, deadline_s)
        if self._trouble is not None:
            return causes.fresh(self._trouble)
        return causes.silent(self._route.endpoint, self._attempt_s)

    def _settle(self) -> None:
        self._until = math.inf
        self._home = self._route.endpoint
        self._forget_failures()

    def _forget_failures(self) -> None:
        self._backoff.reset()
        self._rounds_left = math.inf
        self._strikes.clear()
        self._verdicts.clear()
        self._trouble = self._silence = None
        self._plan.clear()
        self._routes.clear()

    def _plan_round(self) -> None:
        hopeful = [e for e in self._profile.endpoints if e not in self._verdicts]
        self._plan.extend(sorted(hopeful, key=lambda endpoint: endpoint != self._home))
        self._routes.clear()

    def _next_attempt(self, now: float) -> DescartesError | None:
        """Begin with the next route; the error when every endpoint has refused for good."""
        while self.link is None:
            if len(self._verdicts) == len(self._profile.endpoints):
                return self._give_up()
            if not self._routes and not self._plan:
                self._rounds_left -= 1
                if self._rounds_left <= 0:
                    return self._give_up()
                self._retry_at = now + self._backoff.pause()
                return None
            try:
                if not self._routes:
                    self._route = _Route(self._plan.popleft(), b"")
                    self._routes.extend(_routes(self._route.endpoint, self._profile))
                self._attempt(self._routes.popleft(), now)
            except UnavailableError as error:
                self._trouble = error
            except DescartesError as error:
                self._verdicts[self._route.endpoint] = error
        return None

    def _give_up(self) -> DescartesError:
        error = self.reason()
        self._forget_failures()
        return error

    def _attempt(self, route: _Route, now: float) -> None:
        self._route = route
        public, secret = self._keys
        keys = CurveKeys(route.server_key, public, secret)
        try:
            self.link = Link(self._context, route.endpoint, keys, heartbeat_s=self._heartbeat_s)
        except zmq.ZMQError as exc:
            raise causes.no_socket(route.endpoint, exc) from exc
        self.generation += 1
        self._until = now + self._attempt_s

    def _note(self, change: Change) -> None:
        endpoint = self._route.endpoint
        if change == "denied":
            self._verdicts[endpoint] = causes.denied(endpoint, self._keys[0])
        elif change == "broken":
            self._strike(endpoint)
            return
        elif change == "undecided":
            self._trouble = causes.undecided(endpoint)
        elif change == "silent":
            self._trouble = self._silence = causes.silent(endpoint, self._attempt_s)
        else:
            self._trouble = causes.unreachable(endpoint)
        self._strikes[endpoint] = 0
        self._routes.clear()

    def _strike(self, endpoint: str) -> None:
        """Count a failed handshake once all keys of the endpoint have been tried."""
        if self._routes:
            return
        self._strikes[endpoint] += 1
        if self._strikes[endpoint] >= _STRIKES:
            expected = tuple(route.server_key for route in _routes(endpoint, self._profile))
            self._verdicts[endpoint] = causes.wrong_server_key(endpoint, expected)
        else:
            self._trouble = causes.broken(endpoint)


def _client_keys(profile: Profile) -> tuple[bytes, bytes]:
    if profile.public_key is not None and profile.secret_key is not None:
        return _key(profile.public_key), _key(profile.secret_key)
    # Over a Unix socket the kernel says who speaks; the key only encrypts.
    public, secret = zmq.curve_keypair()
    return decode_key(public.decode()), decode_key(secret.decode())


def _routes(endpoint: str, profile: Profile) -> list[_Route]:
    """Every way to reach this endpoint; raises DescartesError when there is none now."""
    if endpoint.startswith(UNIX):
        path = endpoint.removeprefix(UNIX)
        causes.check_unix_socket(path)
        return [_Route(endpoint, read_server_public(path))]
    # The key at the endpoint's own place comes first; the others serve while keys change.
    own = profile.endpoints.index(endpoint)
    keys = profile.server_keys[own : own + 1] + profile.server_keys
    if not keys:
        raise causes.malformed_endpoint(endpoint, "the profile has no server_keys")
    return [_Route(endpoint, _key(key)) for key in dict.fromkeys(keys)]


def _key(text: str) -> bytes:
    try:
        return decode_key(text)
    except ValueError as exc:
        raise InvalidArgumentError(f"a key of the profile is not valid: {exc}") from exc
