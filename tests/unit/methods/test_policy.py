"""Who may enter, who a message is from, and which role that is."""

from __future__ import annotations

import grp
import os
import pwd
from pathlib import Path

import pytest

from descartesd.config.role import Quotas, Role
from descartesd.errors import UnauthenticatedError
from descartesd.keys.authority import Authority, create_authority
from descartesd.keys.certificate import Certificate, sign
from descartesd.keys.curve import generate
from descartesd.keys.keyfile import fingerprint
from descartesd.keys.trust import TrustStore
from descartesd.methods.grants import BUILTIN, RANKS, Roles
from descartesd.methods.policy import Caller, LocalRoles, Policy, refusal
from descartesd.wire.methods import METHODS, ROLES

NOW = 1_800_000_000.0
TCP = "127.0.0.1"
NOBODY_ELSE = 4_000_000_000


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return create_authority(str(tmp_path / "authority.key"))


@pytest.fixture
def trust(tmp_path: Path, authority: Authority, clock: Clock) -> TrustStore:
    directory = tmp_path / "trust"
    directory.mkdir(0o700)
    store = TrustStore(str(directory), [authority.public], clock=clock)
    store.load()
    return store


@pytest.fixture
def policy(trust: TrustStore) -> Policy:
    return Policy(trust, LocalRoles({"1": "operator"}, {}))


def issue(trust: TrustStore, authority: Authority, *roles: str, name: str = "alice") -> bytes:
    """Let a new key in with these roles."""
    key = generate().public
    certificate = Certificate(
        kind="client",
        serial=os.urandom(8),
        name=name,
        key=key,
        roles=roles,
        not_before=int(NOW),
        not_after=int(NOW) + 100,
        renew_until=int(NOW) + 100,
        authority=authority.id,
    )
    trust.add(sign(certificate, authority.seed))
    return key


def test_roles_rise_from_observer_to_admin() -> None:
    assert RANKS["observer"] < RANKS["operator"] < RANKS["admin"]
    assert {method.permission for method in METHODS.values()} <= set(ROLES)


def test_root_and_the_servers_own_uid_are_admin() -> None:
    roles = LocalRoles({"0": "observer", str(os.getuid()): "observer"}, {})

    assert roles.roles(0) == roles.roles(os.getuid()) == ("admin",)


def test_a_uid_has_the_role_configured_for_it_and_no_other_has_any() -> None:
    roles = LocalRoles({"1": "operator"}, {})

    assert roles.roles(1) == ("operator",)
    assert roles.roles(2) == ()
    assert roles.roles(11) == ()


def account() -> tuple[int, str]:
    """A uid that is neither root's nor ours, and the name of its primary group."""
    for entry in pwd.getpwall():
        if entry.pw_uid not in (0, os.getuid()):
            return entry.pw_uid, grp.getgrgid(entry.pw_gid).gr_name
    pytest.skip("this host has no second account")


def test_members_of_a_group_have_its_role() -> None:
    uid, group = account()

    assert LocalRoles({}, {group: "observer"}).roles(uid) == ("observer",)
    assert LocalRoles({}, {"no-such-group": "admin"}).roles(uid) == ()


def test_a_role_of_the_uid_itself_goes_before_that_of_its_groups() -> None:
    uid, group = account()

    assert LocalRoles({str(uid): "observer"}, {group: "admin"}).roles(uid) == ("observer",)


def test_a_uid_without_an_account_has_no_group() -> None:
    _, group = account()

    assert LocalRoles({}, {group: "admin"}).roles(NOBODY_ELSE) == ()


def test_a_certified_key_enters_under_its_fingerprint(
    policy: Policy, trust: TrustStore, authority: Authority
) -> None:
    key = issue(trust, authority, "operator")

    user_id = policy.authenticate(TCP, key)

    assert user_id == f"key:{fingerprint(key)}"
    assert policy.identify(user_id) == Caller(
        user_id, "operator", BUILTIN["operator"], name="alice"
    )


def test_an_unknown_key_does_not_enter(policy: Policy) -> None:
    assert policy.authenticate(TCP, generate().public) is None


def test_over_the_unix_socket_the_uid_counts_and_not_the_key(
    policy: Policy, trust: TrustStore, authority: Authority
) -> None:
    admin = issue(trust, authority, "admin")

    assert policy.authenticate("localhost:1:1:99", admin) == "uid:1"
    assert policy.authenticate("localhost:2:0:99", admin) is None
    assert policy.identify("uid:1") == Caller("uid:1", "operator", BUILTIN["operator"], uid=1)


@pytest.mark.parametrize(
    "address",
    [
        "localhost:0:0",
        "localhost:0:0:1:2",
        "localhost:0:0:1\n",
        " localhost:0:0:1",
        "localhost:-0:0:1",
        "localhost:0x0:0:1",
        "xlocalhost:0:0:1",
        "localhost",
        "",
    ],
)
def test_only_the_kernels_own_form_of_an_address_makes_a_uid(policy: Policy, address: str) -> None:
    assert policy.authenticate(address, generate().public) is None


def test_a_certificate_added_or_taken_away_meanwhile_counts_at_the_next_handshake(
    policy: Policy, trust: TrustStore, authority: Authority, tmp_path: Path, clock: Clock
) -> None:
    other = TrustStore(str(tmp_path / "trust"), [authority.public], clock=clock)
    other.load()
    key = issue(other, authority, "observer", name="late")
    assert trust.lookup(key) is None

    assert policy.authenticate(TCP, key) is not None
    (tmp_path / "trust" / "late.cert").unlink()

    assert policy.authenticate(TCP, key) is None


def test_an_expired_certificate_ends_with_the_next_message(
    policy: Policy, trust: TrustStore, authority: Authority, clock: Clock
) -> None:
    user_id = policy.authenticate(TCP, issue(trust, authority, "admin"))
    assert user_id is not None

    clock.now += 100

    with pytest.raises(UnauthenticatedError, match="not authorised any more"):
        policy.identify(user_id)


def test_a_certificate_of_several_roles_has_the_highest(
    policy: Policy, trust: TrustStore, authority: Authority
) -> None:
    user_id = policy.authenticate(TCP, issue(trust, authority, "observer", "admin", "operator"))
    assert user_id is not None

    assert policy.identify(user_id).role == "admin"


@pytest.mark.parametrize("user_id", ["uid:2", "key:SHA256:nobody", "key:", "", "anybody"], ids=repr)
def test_a_message_of_nobody_known_is_refused(policy: Policy, user_id: str) -> None:
    with pytest.raises(UnauthenticatedError):
        policy.identify(user_id)


def test_a_refusal_names_the_method_the_role_needed_and_the_role_there_is() -> None:
    caller = Caller("uid:1", "observer", BUILTIN["observer"], uid=1)

    error = refusal(caller, METHODS["agent.kill"])

    assert error.message == "agent.kill needs the role operator; uid:1 is observer"
    assert not error.retryable


def test_a_certificate_whose_roles_are_not_defined_here_is_told_so(
    policy: Policy, trust: TrustStore, authority: Authority
) -> None:
    user_id = policy.authenticate(TCP, issue(trust, authority, "elsewhere"))
    assert user_id is not None

    with pytest.raises(UnauthenticatedError, match="has no role this server knows: elsewhere"):
        policy.identify(user_id)


def test_a_new_certificate_with_the_same_roles_gives_no_new_tokens(
    trust: TrustStore, authority: Authority, tmp_path: Path
) -> None:
    limited = Roles({"ci": Role(quotas=Quotas(requests_per_second=1))})
    policy = Policy(trust, LocalRoles({}, {}), limited)
    user_id = policy.authenticate(TCP, issue(trust, authority, "ci"))
    assert user_id is not None
    meter = policy.identify(user_id).meter
    assert meter is not None
    assert policy.meters == {user_id: meter}

    path = tmp_path / "trust" / "alice.cert"
    text = path.read_bytes()
    path.unlink()
    policy.refresh()
    path.write_bytes(text)
    path.chmod(0o600)
    policy.refresh()

    assert policy.identify(user_id).meter is meter
    assert policy.quotas_of(user_id) == Quotas(requests_per_second=1)


def test_service_may_ask_itself_how_it_is_and_nothing_else(tmp_path: Path) -> None:
    own = os.getuid()
    itself = LocalRoles({}, {}, is_service=True)
    if own == 0:
        assert itself.roles(own) == ("admin",)
        itself._own_uid = own = NOBODY_ELSE
    policy = Policy(TrustStore(str(tmp_path), []), itself)

    grants = policy.identify(f"uid:{own}").grants
    assert dict(grants.methods) == {"server.hello": "any", "server.health": "any"}


def test_service_has_the_role_its_own_uid_is_given(tmp_path: Path) -> None:
    mapped = LocalRoles({str(NOBODY_ELSE): "operator"}, {}, is_service=True)
    mapped._own_uid = NOBODY_ELSE

    assert mapped.roles(NOBODY_ELSE) == ("operator",)
