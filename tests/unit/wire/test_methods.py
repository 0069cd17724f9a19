"""The table of methods: every row is complete and usable by a stranger."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from descartesd.wire.methods import METHODS, ROLES, Method

ROWS = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())


@ROWS
def test_row_has_a_permission_and_a_summary(method: Method[Any, Any]) -> None:
    assert method.permission in ROLES
    assert method.summary.endswith(".")
    assert method.name == f"{method.name.split('.')[0]}.{method.name.split('.')[1]}"


@ROWS
def test_row_has_schemas(method: Method[Any, Any]) -> None:
    request = msgspec.json.schema(method.request)
    reply = msgspec.json.schema(method.reply)

    assert request["$ref"].removeprefix("#/$defs/") in request["$defs"]
    assert reply["$ref"].removeprefix("#/$defs/") in reply["$defs"]


@ROWS
def test_request_refuses_unknown_keys(method: Method[Any, Any]) -> None:
    assert method.request.__struct_config__.forbid_unknown_fields


@ROWS
def test_reply_ignores_unknown_keys(method: Method[Any, Any]) -> None:
    assert not method.reply.__struct_config__.forbid_unknown_fields


def test_what_changes_something_is_never_called_a_read() -> None:
    changing = {"spawn", "pause", "resume", "stop", "kill", "signal", "write", "remove", "sign"}
    changing |= {"respawn", "resize", "say", "answer", "drain", "token", "enroll", "revoke"}
    changing |= {"authority", "add", "present", "renew", "rotate", "reload"}

    for method in METHODS.values():
        # One follows what it has begun to run.
        verb = "run" if method.name == "action.follow" else method.name.partition(".")[2]
        assert (method.resend == "read") == (
            verb not in changing | {"close_stdin", "credit", "cancel", "run"}
        )
        # Whoever has a certificate may have his own renewed.
        if verb in changing - {"renew"}:
            assert method.permission != "observer"
