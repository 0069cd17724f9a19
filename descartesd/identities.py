"""Part of the composition root: the server's own keys, and all that decides who a peer is."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import replace

from descartesd.agents.book import Book
from descartesd.agents.fleet import Fleet
from descartesd.agents.registry import Registry
from descartesd.config.endpoint import seen_from_elsewhere
from descartesd.config.schema import Config, Network
from descartesd.keys.authorities import Authorities
from descartesd.keys.authority import load_authority
from descartesd.keys.curve import load_key_file
from descartesd.keys.tokens import TokenStore
from descartesd.keys.trust import TrustStore
from descartesd.methods.authorities import AuthorityMethods
from descartesd.methods.call import Handler
from descartesd.methods.cert import CertMethods
from descartesd.methods.dispatch import Dispatcher
from descartesd.methods.enrolling import Enrolling
from descartesd.methods.explaining import PolicyMethods
from descartesd.methods.guests import Guests
from descartesd.methods.policy import Caller, policy_of
from descartesd.methods.renewing import Renewing
from descartesd.methods.revoking import Revoking, agree_on_revoked
from descartesd.methods.server import Upkeep
from descartesd.methods.signing import Introduction, Signing
from descartesd.transport.server import RouterOptions
from descartesd.wire.methods import ROLES


class Identities:
    """Keys, trust store and policy of one server. Raises StartupRefusedError."""

    def __init__(self, config: Config, registry: Registry) -> None:
        server = config.server
        self.host_key = load_key_file(server.host_key_file)
        roles = (*ROLES, *config.policy.roles)
        self._authority = replace(load_authority(server.authority_key_file), roles=roles)
        self.trust = TrustStore(server.trust_dir, [self._authority.public])
        self._authorities = Authorities(server.authorities_dir, self._authority.public)
        self._authorities.load()
        self.trust.believe(self._authorities.believed)
        agree_on_revoked(self.trust, registry)
        self.policy = policy_of(config.policy, self.trust)
        tokens = TokenStore(server.tokens_dir)
        tokens.load()
        self.guests = self.policy.guests = Guests(tokens, self.trust)

    def router_options(self, network: Network) -> RouterOptions:
        """How the control socket proves who the server is, and its bounds."""
        return RouterOptions(
            public_key=self.host_key.public_text.encode(),
            secret_key=self.host_key.secret_text.encode(),
            max_request_bytes=network.max_request_bytes,
            send_hwm=network.send_hwm,
            receive_hwm=network.receive_hwm,
        )

    def handlers(
        self, dispatcher: Dispatcher, book: Book, fleet: Fleet, endpoints: list[str]
    ) -> Mapping[str, Handler]:
        """The functions about certificates and policy; `endpoints` are those listened on."""
        elsewhere = seen_from_elsewhere(endpoints, socket.gethostname())
        signing = Signing(
            self.trust, self._authority, Introduction(self.host_key.public_text, elsewhere)
        )
        expel = dispatcher.tidy
        self._renewing = Renewing(self.trust, signing, self._authorities)
        certificates = CertMethods(
            self.trust,
            signing,
            Enrolling(self.guests, self.trust, signing),
            AuthorityMethods(self._authorities, self.trust, self.guests, expel),
            self._renewing,
            Revoking(self.trust, self.guests.tokens, book, fleet, expel),
        ).handlers()
        return {**certificates, **PolicyMethods(self.policy, book).handlers()}

    def upkeep(self, caller: Caller) -> Upkeep:
        """What a caller has to see to."""
        return Upkeep(renew=self._renewing.is_due(caller))
