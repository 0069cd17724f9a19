"""A server whose backend `chatter` is the small coding agent of tests/fakes/chatter.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.server import Server

PROGRAM = Path(__file__).parents[1] / "fakes" / "chatter.py"
_START = f'"{sys.executable}", "-I", "-S", "{PROGRAM}"'
CONFIG = f"""
[backends.chatter]
command = [{_START}, ["--model", "{{model}}"], ["--", "{{task}}"]]
resume = [{_START}, "--resume={{session}}", ["--", "{{task}}"]]
chat = [{_START}, "--chat", ["--resume={{session}}"]]
env = {{FROM_BACKEND = "1", WHO = "backend"}}
dialect = "claude"
say = '{{"type": "user", "text": "{{text}}"}}'
interrupt = '{{"type": "interrupt", "id": "{{id}}"}}'
interrupted = '{{"type": "interrupted", "id": "{{id}}"}}'
allow = '{{"type": "answer", "id": "{{id}}", "input": "{{input}}"}}'
deny = '{{"type": "answer", "id": "{{id}}", "message": "{{message}}"}}'

[backends.filed]
command = ["/bin/cat", "{{task_file}}"]
task_via = "file"
dialect = "none"

[backends.absent]
command = ["no-such-program", "--", "{{task}}"]
"""


@contextmanager
def with_chatter() -> Iterator[Server]:
    """Run it for the time of a block."""
    with Server() as server:
        with server.config.open("a", encoding="utf-8") as file:
            file.write(CONFIG)
        server.start()
        yield server
