"""The coding agents every server knows, registered as any plugin would.

None of these templates lets an agent do what it would otherwise ask for: who wants that configures
a backend of their own.
"""

from __future__ import annotations

from dataclasses import replace

from descartesd.api import Backend, hookimpl

_READ = "Read,Bash,Glob,Grep"
_WRITE = "Read,Write,Edit,Bash,Glob,Grep"
_EVERYTHING = f"{_WRITE},Task,WebFetch,WebSearch"
_LEVELS = {
    "minimal": _WRITE,
    "orchestrator": _EVERYTHING,
    "full": _EVERYTHING,
    "readonly": _READ,
    "read": _READ,
    "researcher": f"{_READ},WebFetch,WebSearch",
    "planner": "Read,Write,Bash,Glob,Grep",
    "lispdeveloper": _READ,
}
_SUCCESS = '{"type": "control_response", "response": {"subtype": "success", "request_id": "{id}"'

# With `=`, so that a value that begins with '-' is a value.
_CLAUDE_OPTIONS = (
    ("--model", "{model}"),
    ("--allowedTools={tools}",),
    ("--append-system-prompt={system_prompt}",),
    ("--agents={subagents}",),
)
_CLAUDE_PRINT = ("claude", "-p", "--output-format", "stream-json", "--verbose")
_CLAUDE = Backend(
    name="claude",
    start=(*_CLAUDE_PRINT, *_CLAUDE_OPTIONS, ("--", "{task}")),
    resume=(*_CLAUDE_PRINT, "--resume", "{session}", *_CLAUDE_OPTIONS, ("--", "{task}")),
    chat=(
        *_CLAUDE_PRINT,
        *("--input-format", "stream-json", "--replay-user-messages"),
        *("--permission-prompt-tool", "stdio"),
        ("--resume", "{session}"),
        *_CLAUDE_OPTIONS,
    ),
    env={
        "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS": "1",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "DISABLE_AUTOUPDATER": "1",
    },
    dialect="claude",
    tools=_LEVELS,
    say='{"type": "user", "message": {"role": "user", "content": "{text}"}}',
    interrupt='{"type": "control_request", "request_id": "{id}", '
    '"request": {"subtype": "interrupt"}}',
    interrupted=f"{_SUCCESS}}}}}",
    allow=f'{_SUCCESS}, "response": {{"behavior": "allow", "updatedInput": "{{input}}"}}}}}}',
    deny=f'{_SUCCESS}, "response": {{"behavior": "deny", "message": "{{message}}"}}}}}}',
    needs="npm install -g @anthropic-ai/claude-code",
)
_CODEX = Backend(
    name="codex",
    start=(
        *("codex", "exec", "--json", "--skip-git-repo-check", "--disable", "plugins"),
        ("--model", "{model}"),
        ("--", "{task}"),
    ),
    resume=(
        *("codex", "exec", "resume", "--json", "--skip-git-repo-check"),
        ("--model", "{model}"),
        "{session}",
        ("--", "{task}"),
    ),
    dialect="codex",
    needs="npm install -g @openai/codex",
)
_OPENCODE = Backend(
    name="opencode",
    start=(*("opencode", "run", "--format", "json"), ("--model", "{model}"), ("--", "{task}")),
    resume=(
        *("opencode", "run", "--format", "json", "--session", "{session}"),
        ("--model", "{model}"),
        ("--", "{task}"),
    ),
    env={
        "OPENCODE_DISABLE_AUTOUPDATE": "1",
        "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
        "OPENCODE_DISABLE_MODELS_FETCH": "1",
    },
    dialect="opencode",
    needs="npm install -g opencode-ai",
)
_GEMINI_START = (
    *("gemini", ("-p={task}",), "--output-format", "stream-json", "--skip-trust"),
    ("--model", "{model}"),
)
_GEMINI = Backend(
    name="gemini",
    start=_GEMINI_START,
    resume=(*_GEMINI_START, "--resume={session}"),
    env={"GEMINI_TELEMETRY_ENABLED": "false"},
    dialect="gemini",
    needs="npm install -g @google/gemini-cli",
)


@hookimpl
def register_backends() -> list[Backend]:
    """Register claude, also by its older name, codex, opencode and gemini."""
    return [_CLAUDE, replace(_CLAUDE, name="claude-code-cli"), _CODEX, _OPENCODE, _GEMINI]
