"""All that a plugin imports: the mark of a hook, what it may register, is told, and may raise."""

from __future__ import annotations

import pluggy
from msgspec import Meta, Struct

from descartesd.api.about import API_VERSION, Identity, KeyHolder, ServerInfo
from descartesd.api.action import Action, ActionContext
from descartesd.api.backend import Backend
from descartesd.errors import (
    AlreadyExistsError,
    ConflictError,
    DescartesError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from descartesd.metric import (
    Distribution,
    Exporter,
    Metric,
    MetricFamily,
    MetricSource,
    Sample,
)
from descartesd.wire.agent import AgentInfo, AgentSpec, Outcome, State
from descartesd.wire.event import Event
from descartesd.wire.server import Empty, Role, RoleName

__all__ = [
    "API_VERSION",
    "hookimpl",
    # What a plugin registers.
    "Action",
    "ActionContext",
    "Backend",
    "Exporter",
    "Metric",
    "Sample",
    "Distribution",
    # What its hooks are told, and answer.
    "AgentInfo",
    "AgentSpec",
    "Event",
    "Identity",
    "KeyHolder",
    "MetricFamily",
    "MetricSource",
    "Outcome",
    "Role",
    "RoleName",
    "ServerInfo",
    "State",
    # What its configuration and the parameters of its actions are made of.
    "Empty",
    "Meta",
    "Struct",
    # What it raises.
    "AlreadyExistsError",
    "ConflictError",
    "DescartesError",
    "InvalidArgumentError",
    "NotFoundError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnavailableError",
]

hookimpl = pluggy.HookimplMarker("descartesd")
