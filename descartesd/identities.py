"""Part of the composition root: the server's own keys, and all that decides who a peer is."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from descartesd.agents.book import Book
from descartesd.agents.fleet import Fleet
from descartesd.agents.registry import Registry
from descartesd.config.endpoint import seen_from_elsewhere
from descartesd.config.schema import Config, Network, Policy
from descartesd.hooks.relay import Relay
from descartesd.keys.authorities import Authorities
from descartesd.keys.authority import load_authority
from descartesd.keys.clock import SteadyClock, clock_file
from descartesd.keys.curve import CurveKeyPair
from descartesd.keys.hostkeys import HostKeys, load_sealing_key
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.tokens import TokenStore
from descartesd.keys.trust import TrustStore
from descartesd.methods.authorities import AuthorityMethods
from descartesd.methods.call import Handler
from descartesd.methods.cert import CertMethods
from descartesd.methods.dispatch import Dispatcher
from descartesd.methods.enrolling import Enrolling
from descartesd.methods.explaining import PolicyMethods
from descartesd.methods.guests import Guests
from descartesd.methods.outsiders import outsiders
from descartesd.methods.policy import Caller, policy_of
from descartesd.methods.renewing import Renewing
from descartesd.methods.revoking import Revoking, agree_on_revoked
from descartesd.methods.rotating import Rotating
from descartesd.methods.server import Upkeep
from descartesd.methods.signing import Introduction, Signing
from descartesd.places import publish
from descartesd.systemd.credentials import KeyFiles
from descartesd.transport.server import RouterOptions
from descartesd.wire.methods import ROLES

log = logging.getLogger(__name__)

_NOTHING, _RENEW = Upkeep(), Upkeep(renew=True)


class Identities:
    """Keys, trust store and policy of one server. Raises StartupRefusedError."""

    def __init__(self, config: Config, registry: Registry, files: KeyFiles) -> None:
        server = config.server
        self._server = server
        self._files = files
        self._auth_cache_s = config.plugins.auth_cache_s
        self._clock = clock = SteadyClock(clock_file(server.state_dir))
        self._host = HostKeys(files.host, clock=clock)
        self.sealing_key = load_sealing_key(files.host)
        # Has new connections meet another key of this server.
        self.rekey: Callable[[bytes, bytes], None] = lambda _public, _secret: None
        roles = (*ROLES, *config.policy.roles)
        self._authority = replace(load_authority(files.authority), roles=roles)
        self.trust = TrustStore(server.trust_dir, [self._authority.public], clock=clock)
        self._authorities = Authorities(server.authorities_dir, self._authority.public, clock=clock)
        self._authorities.load()
        self.trust.believe(self._authorities.believed)
        agree_on_revoked(self.trust, registry)
        self.policy = policy_of(config.policy, self.trust, is_service=bool(server.keeper_socket))
        tokens = TokenStore(server.tokens_dir, clock=clock)
        tokens.load()
        self.guests = self.policy.guests = Guests(tokens, self.trust)
        self._skipped: set[str] = set()
        self._tell_skipped()
        self._look_at_clock()

    def ask(self, relay: Relay) -> None:
        """Let in whom plugins vouch for, too; where none does, nothing is asked."""
        self.policy.outsiders = outsiders(relay, self._auth_cache_s, self.trust.revoked)

    def router_options(self, network: Network) -> RouterOptions:
        """How the control socket proves who the server is, and its bounds."""
        return RouterOptions(
            public_key=self.host_key.public_text.encode(),
            secret_key=self.host_key.secret_text.encode(),
            max_request_bytes=network.max_request_bytes,
            send_hwm=network.send_hwm,
            receive_hwm=network.receive_hwm,
        )

    @property
    def host_key(self) -> CurveKeyPair:
        """The key new connections meet now."""
        return self._host.current

    def publish_host_key(self) -> None:
        """Put the public half where callers of this host look for it."""
        publish(self._server.public_key_file, f"{self.host_key.public_text}\n".encode())

    def tidy(self) -> None:
        """Look at the clock, and let the next host key have its turn when it is time."""
        self._look_at_clock()
        self._tell_skipped()
        if not self._host.turn():
            return
        key = self.host_key
        self.publish_host_key()
        self.rekey(key.public_text.encode(), key.secret_text.encode())
        introduction = self._signing.introduction
        self._signing.introduction = replace(introduction, server_key=key.public_text)
        log.warning("host_key.turned", extra={"fingerprint": fingerprint(key.public)})

    def reconfigure(self, policy: Policy) -> None:
        """Have other roles, and let in who has one now."""
        self.policy.reconfigure(policy)
        roles = (*ROLES, *policy.roles)
        self._signing.authority = replace(self._signing.authority, roles=roles)

    def _tell_skipped(self) -> None:
        """Log each file that is not what it should be, once."""
        tokens = self.guests.tokens
        now = {*self.trust.problems, *self._authorities.problems, *tokens.problems}
        for problem in sorted(now - self._skipped):
            log.error("file.skipped", extra={"file": problem})
        self._skipped = now

    def _look_at_clock(self) -> None:
        self._clock.tick()
        problem = self._clock.problem
        if problem is not None:
            ended = self.trust.ended_at(time.time())
            problem = f"{problem}; {ended} certificates would have ended by the host's clock"
        if (problem is None) != (self.policy.clock_problem is None):
            log.warning("clock.changed", extra={"cause": problem})
        self.policy.clock_problem = problem
        self.policy.certificates_expiring = self.trust.expiring()

    def handlers(
        self, dispatcher: Dispatcher, book: Book, fleet: Fleet, endpoints: list[str]
    ) -> Mapping[str, Handler]:
        """The functions about certificates and policy; `endpoints` are those listened on."""
        elsewhere = seen_from_elsewhere(endpoints, socket.gethostname())
        self._signing = signing = Signing(
            self.trust,
            self._authority,
            Introduction(self.host_key.public_text, elsewhere),
            clock=self._clock,
        )
        expel = dispatcher.tidy
        enrolling = Enrolling(self.guests, self.trust, signing, clock=self._clock)
        self._renewing = Renewing(self.trust, signing, self._authorities, clock=self._clock)
        believed = AuthorityMethods(self._authorities, self.trust, self.guests, expel)
        key_file = self._files.authority
        rotating = Rotating(
            self._host, key_file, self._authorities, self.trust, signing, clock=self._clock
        )
        revoking = Revoking(self.trust, self.guests.tokens, book, fleet, expel)
        return {
            **CertMethods(self.trust, signing, enrolling, clock=self._clock).handlers(),
            "cert.authority": believed.authority,
            "cert.add": believed.add,
            "cert.present": believed.present,
            "cert.renew": self._renewing.renew,
            "cert.rotate": rotating.rotate,
            "cert.revoke": revoking.revoke,
            **PolicyMethods(self.policy, book).handlers(),
        }

    def upkeep(self, caller: Caller) -> Upkeep:
        """What a caller has to see to."""
        is_due = self._renewing.is_due(caller)
        coming = self._host.next
        if coming is None:
            return _RENEW if is_due else _NOTHING
        return Upkeep(coming.pair.public_text, coming.turn_at, renew=is_due)
