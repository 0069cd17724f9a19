"""Records the conversation with a keeper of this version: python -m tests.unit.keeper.record."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from descartesd.keeper import protocol
from tests.unit.keeper.harness import Client, Keeper

ID: Final = "golden00000000000000"
_AGENT: Final = {"agent_id": ID}
REQUESTS: Final[list[dict[str, Any]]] = [
    {"op": "hello", "version": protocol.VERSION},
    {
        "op": "spawn", **_AGENT, "name": "golden", "attempt": 1, "argv": ["sleep", "60"],
        "cwd": "/", "env": {"DESCARTES_AGENT_ID": ID}, "path": ["/usr/bin", "/bin"],
        "stdin": "pipe", "rlimits": {"nofile": 256}, "output_bytes": 1 << 20,
        "on_exit": "keep", "stop": {"signal": 15, "grace_s": 10.0}, "cwd_within": ["/"],
    },
    {"op": "list", "cursor": None, "limit": 10},
    {"op": "usage", "agent_ids": [ID]},
    {"op": "resize", **_AGENT, "rows": 30, "cols": 100},
    {"op": "write", **_AGENT, "data": b"hello\n", "writer": "w", "offset": 0},
    {"op": "close_stdin", **_AGENT},
    {"op": "fence", **_AGENT, "deadline": 1e12},
    {"op": "pause", **_AGENT},
    {"op": "resume", **_AGENT},
    {"op": "signal", **_AGENT, "signal": 28},
    {"op": "stop", **_AGENT, "signal": 15, "grace_s": 5.0},
    {"op": "kill", **_AGENT},
    {"op": "forget", **_AGENT},
    {"op": "remove", **_AGENT},
    {"op": "strays"},
    {"op": "recover", "agents": [{**_AGENT, "pid": 4194303, "start_time": 1}]},
    {"op": "reexec"},
    {"op": "no-such-operation"},
    {"op": "shutdown"},
]  # fmt: skip
# What differs from run to run, and what stands for it in the golden bytes.
VARIABLE: Final[dict[str, Any]] = {
    "pid": 1,
    "start_time": 2,
    "started_at": 3.0,
    "paused_at": 4.0,
    "ended_at": 5.0,
    "boot_id": "boot",
    "build": "build",
    "output_dir": "/dir",
    "message": "sentence",
    "features": list(protocol.FEATURES),
    "pause_mode": "tree",
    "mode": "tree",
    "usage": {ID: [1 << 20, 0.5, 1]},
}


def golden_path(version: str) -> Path:
    """Where the conversation with a keeper of a version is."""
    return Path(__file__).parent / "golden" / f"v{version}.txt"


def golden(version: str = protocol.VERSION) -> dict[str, bytes]:
    """The recorded packets by name, in the order of the conversation."""
    lines = golden_path(version).read_text().splitlines()
    return {name: bytes.fromhex(packet) for name, packet in map(str.split, lines)}


def settle(value: Any) -> Any:
    """The message with what is variable put in its place."""
    if isinstance(value, list):
        return [settle(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        key: VARIABLE[key] if key in VARIABLE and each is not None else settle(each)
        for key, each in value.items()
    }


def record(client: Client) -> dict[str, bytes]:
    """Hold the conversation: its packets by name."""
    packets = {}
    for number, request in enumerate(REQUESTS, 1):
        op = request["op"]
        packets[f"request:{op}"] = protocol.pack({"id": number, **request})
        client.sock.send(packets[f"request:{op}"])
        packets[f"reply:{op}"] = _answer(client)
        if op == "stop":
            packets[f"exited:{op}"] = _answer(client)
    return packets


def _answer(client: Client) -> bytes:
    answer = protocol.receive(client.sock)
    assert answer is not None
    return protocol.pack(settle(answer))


def main() -> None:
    """Write the golden file of this version."""
    keeper = Keeper()
    try:
        packets = record(keeper.client)
    finally:
        keeper.close()
    lines = [f"{name} {packet.hex()}\n" for name, packet in packets.items()]
    golden_path(protocol.VERSION).write_text("".join(lines))


if __name__ == "__main__":
    main()
