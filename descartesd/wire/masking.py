"""Tells from a variable's name that nobody should see its value."""

from __future__ import annotations

import re

from msgspec.structs import replace

from descartesd.wire.agent import AgentSpec

MASK = "***"
_WORD = re.compile(
    r"(?:^|_)(?:"
    r"[A-Z0-9]*(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|COOKIE|BEARER|JWT)"
    r"|[A-Z0-9]*(?:API|ACCESS|AUTH|PRIVATE|SECRET|SIGNING|ENCRYPTION|MASTER|SSH|HOST)KEY"
    r"|(?:SSH|DB|PG|MYSQL|REDIS|SMTP|MAIL|LDAP|USER|ROOT|ADMIN|SUDO)PASS"
    r"|KEY|PASS|PWD)S?(?:_|$)"
    # A personal access token; alone it may be a pattern or a name.
    r"|_PATS?(?:_|$)"
)
# The directory a program runs in.
_PLAIN = ("PWD", "OLDPWD")


def is_secret(name: str) -> bool:
    """Whether a word of the name says so: KEY, TOKEN, SECRET, PASSWORD and their like."""
    upper = name.upper()
    return upper not in _PLAIN and _WORD.search(upper) is not None


def shown(spec: AgentSpec) -> AgentSpec:
    """The spec as anybody may see it: a mask instead of each value nobody should see."""
    if not any(map(is_secret, spec.env)):
        return spec
    env = {name: MASK if is_secret(name) else value for name, value in spec.env.items()}
    return replace(spec, env=env)
