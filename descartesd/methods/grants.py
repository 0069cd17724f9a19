"""What somebody is allowed: which methods, and on whose agents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from descartesd.wire.methods import METHODS, ROLES
from descartesd.wire.server import Role

# On agents of one's own only, or on everybody's.
Scope = Literal["own", "any"]

RANKS: dict[Role, int] = {role: rank for rank, role in enumerate(ROLES)}


@dataclass(frozen=True, slots=True)
class Grants:
    """The methods somebody may call, each with its scope; what is not in it is denied.

    `rank` is that of the greatest built-in role in it, -1 without one.
    """

    methods: Mapping[str, Scope]
    rank: int = -1


def builtin(role: Role) -> Grants:
    """What a built-in role allows: every method that needs no greater role, on all agents."""
    return Grants(
        methods={
            name: "any"
            for name, method in METHODS.items()
            if RANKS[method.permission] <= RANKS[role]
        },
        rank=RANKS[role],
    )


# What a new client that has shown no certificate yet may call, and nothing else.
ENROLLING = Grants(methods={"cert.enroll": "any"})
PRESENTING = Grants(methods={"cert.present": "any"})
BUILTIN: Mapping[str, Grants] = {role: builtin(role) for role in ROLES}
