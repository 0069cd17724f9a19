"""What can be found out about a server's directory without the server."""

from __future__ import annotations

import os
from collections.abc import Mapping

from descartesd.agents.meta import read_meta
from descartesd.config.load import load_config
from descartesd.errors import PermissionDeniedError, UnavailableError
from descartesd.init import CONFIG_NAME
from descartesd.keys.hostkeys import load_sealing_key
from descartesd.keys.seal import sealer_of
from descartesd.observe.audit_check import Check
from descartesd.observe.audit_head import head_of
from descartesd.wire.audit import AuditReport


def verify_audit_log(directory: str, environ: Mapping[str, str]) -> AuditReport:
    """Check the audit log of a server directory against its registry and its host key.

    Raises StartupRefusedError without a usable configuration or key, NotFoundError without a
    registry, PermissionDeniedError or UnavailableError where files cannot be read.
    """
    server = load_config(os.path.join(directory, CONFIG_NAME), environ=environ).server
    public = sealer_of(load_sealing_key(server.host_key_file).secret).public
    head = head_of(read_meta(os.path.join(server.state_dir, "registry.sqlite"), "audit_head"))
    try:
        check = Check(server.state_dir, head, public)
        while check.step():
            continue
    except PermissionError as exc:
        raise PermissionDeniedError(
            f"cannot read '{exc.filename}'", hint="ask as the user the server runs as"
        ) from exc
    except OSError as exc:
        raise UnavailableError(f"cannot read '{exc.filename}': {exc.strerror}") from exc
    return check.report()
