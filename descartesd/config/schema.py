"""Every setting of a server: its type, default, bounds and meaning, in one place.

File, environment, messages and reference page derive from these fields. `description` says what
a setting does, with its unit; `title` is what a fault names as expected.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from descartesd.config.backend import Backend, BackendName
from descartesd.config.endpoint import parse_tcp
from descartesd.config.role import Role, RoleKey, RoleRef

# To dynaconf a name that begins with dynaconf_ is an instruction.
PluginName = Annotated[
    str,
    Meta(
        pattern=r"^(?!dynaconf_)[a-z][a-z0-9_-]{0,62}$(?!\n)",
        title="a lower-case letter and up to 62 lower-case letters, digits, '_' or '-'",
    ),
]
LogLevel = Literal["trace", "debug", "info", "warn", "error"]
LogFormat = Literal["json", "pretty"]
OnAuditError = Literal["refuse", "continue"]

# A leading `~` would name a directory called '~': no shell reads this file.
Path = Annotated[
    str,
    Meta(
        pattern=r"^[^~\x00][^\x00]*$(?!\n)",
        title="a path, absolute or relative to the configuration file's directory",
    ),
]
Uid = Annotated[str, Meta(pattern=r"^(0|[1-9][0-9]{0,9})$(?!\n)", title="a uid")]
# To dynaconf a name that begins with dynaconf_ is an instruction.
Group = Annotated[
    str, Meta(pattern=r"^(?!dynaconf_)[A-Za-z_][A-Za-z0-9_.-]*\$?$(?!\n)", title="a group")
]


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the configuration."""


class Runner(Section, frozen=True):
    """How agents are started."""

    working_dir: Annotated[
        str,
        Meta(
            description="Directory an agent starts in when its spec names none; empty: the home "
            "directory of the user it runs as.",
            pattern=r"^([^~\x00][^\x00]*)?$(?!\n)",
            title="a path, or nothing",
        ),
    ] = ""
    user: Annotated[
        str,
        Meta(
            description="Account an agent runs under when neither its spec nor a local caller's "
            "own is one; empty: the server's. A keeper that is a service of its own needs one.",
            pattern=r"^[^\x00]*$(?!\n)",
            title="a user of this host, or nothing",
        ),
    ] = ""
    path: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^(/|~/)[^:\x00]*$(?!\n)")], ...],
        Meta(
            description="Directories programs are looked up in, first to last; '~/' is the home "
            "directory of the user the agent runs as.",
            title="a list of directories that begin with '/' or '~/'",
        ),
    ] = ("~/.local/bin", "/usr/local/bin", "/usr/bin", "/bin")


class Server(Section, frozen=True):
    """The server: where it listens, where it keeps its files, how much it takes on."""

    server_id: Annotated[
        str,
        Meta(
            description="Name of this server, unique in a fleet; empty: made from the host's name.",
            pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]{0,62})?$(?!\n)",
            title="at most 63 letters, digits, '.', '_' or '-'",
        ),
    ] = ""
    endpoint: Annotated[
        str,
        Meta(
            description="Address to listen on, tcp://HOST:PORT; an IPv6 address in brackets, "
            "0.0.0.0 for every address, port 0 for any free one.",
            extra={"check": parse_tcp},
        ),
    ] = "tcp://127.0.0.1:5555"
    local_socket: Annotated[
        Path,
        Meta(description="Unix socket for callers on this host; server.pub stands beside it."),
    ] = "run/control.sock"
    state_dir: Annotated[
        Path, Meta(description="Directory of what must survive: registry, trust store, output.")
    ] = "state"
    keys_dir: Annotated[
        Path, Meta(description="Directory of the server's secret keys: host.key, authority.key.")
    ] = "keys"
    make_missing_keys: Annotated[
        bool,
        Meta(
            description="Whether a start makes the keys that are missing, as a container's first "
            "one does; a systemd service does so in any case."
        ),
    ] = False
    run_dir: Annotated[Path, Meta(description="Directory of what lives as long as the server.")] = (
        "run"
    )
    keeper_socket: Annotated[
        str,
        Meta(
            description="Socket of a keeper that runs as a service of its own and writes the "
            "output to output_dir; empty: the server starts its own keeper and ends it.",
            pattern=r"^([^~\x00][^\x00]*)?$(?!\n)",
            title="a path, or nothing",
        ),
    ] = ""
    keeper_upgrade: Annotated[
        Literal["reexec", "stay"],
        Meta(
            description="What becomes of a keeper of another version than the installed one: it "
            "re-executes itself into that, keeping agents and output, or stays until it is "
            "restarted, which ends its agents."
        ),
    ] = "reexec"
    output_dir: Annotated[
        str,
        Meta(
            description="Directory of the agents' output, which the keeper writes; empty: output "
            "in state_dir.",
            pattern=r"^([^~\x00][^\x00]*)?$(?!\n)",
            title="a path, or nothing",
        ),
    ] = ""
    max_agents: Annotated[
        int, Meta(description="Agents that may run at once.", ge=1, le=1_000_000)
    ] = 100
    request_timeout_secs: Annotated[
        int,
        Meta(
            description="Seconds the work for one request may take when the request itself sets "
            "no deadline.",
            ge=1,
            le=86_400,
        ),
    ] = 60
    enable_status_updates: Annotated[
        bool,
        Meta(
            description="Whether events tell of new output and of the server's being alive, while "
            "somebody follows them."
        ),
    ] = True
    status_update_interval_secs: Annotated[
        int,
        Meta(
            description="Seconds between two such events about the same agent, or the server.",
            ge=1,
            le=86_400,
        ),
    ] = 10
    runner: Runner = field(default_factory=Runner)

    @property
    def trust_dir(self) -> str:
        """Directory of the certificates that are let in."""
        return os.path.join(self.state_dir, "trust")

    @property
    def tokens_dir(self) -> str:
        """Directory of the public keys of those who have no certificate yet."""
        return os.path.join(self.state_dir, "tokens")

    @property
    def authorities_dir(self) -> str:
        """Directory of the public keys of other authorities that are trusted."""
        return os.path.join(self.state_dir, "authorities")

    @property
    def host_key_file(self) -> str:
        """The server's CURVE key."""
        return _key_file("host.key", self.keys_dir)

    @property
    def authority_key_file(self) -> str:
        """The key certificates are signed with."""
        return _key_file("authority.key", self.keys_dir)

    @property
    def public_key_file(self) -> str:
        """The server's public key, for callers on this host."""
        return os.path.join(os.path.dirname(self.local_socket), "server.pub")


def _key_file(name: str, keys_dir: str) -> str:
    """Where a key is: what systemd has brought as a credential goes before the server's own."""
    credential = os.path.join(os.environ.get("CREDENTIALS_DIRECTORY", ""), name)
    if os.path.isabs(credential) and os.path.exists(credential):
        return credential
    return os.path.join(keys_dir, name)


class Network(Section, frozen=True):
    """Bounds of the control socket."""

    max_request_bytes: Annotated[
        int,
        Meta(
            description="Bytes of the largest frame taken in; a larger one is cut before it is "
            "read, so it also bounds what a peer without a key can make the server hold.",
            ge=4096,
            le=10_485_760,
        ),
    ] = 262_144
    max_message_size: Annotated[
        int, Meta(description="Bytes of the largest message sent.", ge=65_536, le=104_857_600)
    ] = 10_485_760
    send_hwm: Annotated[
        int, Meta(description="Messages kept for a peer that does not read.", ge=1, le=1_000_000)
    ] = 1000
    receive_hwm: Annotated[
        int, Meta(description="Messages of a peer that may wait to be read.", ge=1, le=1_000_000)
    ] = 1000


class Monitoring(Section, frozen=True):
    """What the server says about itself."""

    log_level: Annotated[LogLevel, Meta(description="The least severe messages logged.")] = "info"
    log_format: Annotated[
        LogFormat, Meta(description="One JSON object a line, or text for people.")
    ] = "json"


class Limits(Section, frozen=True):
    """How many agents may wait, and the limits of an agent whose spec sets none."""

    max_queued: Annotated[
        int,
        Meta(
            description="Agents that may wait while server.max_agents run; 0: none, a further one "
            "is refused.",
            ge=0,
            le=1_000_000,
        ),
    ] = 1000
    keep_ended_secs: Annotated[
        int,
        Meta(
            description="Seconds an ended agent and its output are kept; 0: until it is removed.",
            ge=0,
            le=31_536_000,
        ),
    ] = 0
    max_output_buffer_bytes: Annotated[
        int,
        Meta(
            description="Bytes of output kept for each stream of an agent; older ones are dropped.",
            ge=4096,
            le=1 << 40,
        ),
    ] = 10_485_760


class Policy(Section, frozen=True):
    """Who may do what."""

    local_uids: Annotated[
        dict[Uid, RoleRef],
        Meta(description="Roles of users of this host who call over the Unix socket, by uid."),
    ] = field(default_factory=dict)
    local_groups: Annotated[
        dict[Group, RoleRef],
        Meta(
            description="Roles of the members of a group of this host, by the group's name; who is "
            "in several of them has the roles of all."
        ),
    ] = field(default_factory=dict)
    roles: Annotated[
        dict[RoleKey, Role],
        Meta(description="Roles beside the built-in ones observer, operator and admin."),
    ] = field(default_factory=dict)


class Audit(Section, frozen=True):
    """The log of who changed what."""

    on_error: Annotated[
        OnAuditError,
        Meta(
            description="What happens while the audit log cannot be written: refuse every change, "
            "or continue unrecorded. Reads are answered either way."
        ),
    ] = "refuse"
    max_bytes: Annotated[
        int,
        Meta(
            description="Bytes after which the audit log is put aside and another file begun.",
            ge=65_536,
            le=1 << 34,
        ),
    ] = 67_108_864
    keep_files: Annotated[
        int, Meta(description="Files of it that are kept once put aside.", ge=1, le=100)
    ] = 10


class Plugins(Section, frozen=True):
    """Plugins: which are loaded, and how far they are trusted with time.

    The settings of a plugin stand in a table of its own, `[plugins.NAME]`.
    """

    enabled: Annotated[
        tuple[PluginName, ...],
        Meta(
            description="Plugins that are loaded, by name, in the order they are asked in; one "
            "that is installed and not named here is not loaded.",
            title="a list of names of plugins",
        ),
    ] = ()
    hook_timeout_s: Annotated[
        float,
        Meta(
            description="Seconds a hook of a plugin may take; then the server goes on without "
            "its answer.",
            ge=0.05,
            le=60,
        ),
    ] = 2.0
    bench_failures: Annotated[
        int,
        Meta(
            description="Calls out of the last plugins.bench_calls that have to fail until a "
            "plugin is benched: not called any more.",
            ge=1,
            le=1000,
        ),
    ] = 5
    bench_calls: Annotated[
        int, Meta(description="Last calls that are looked at for that.", ge=1, le=10_000)
    ] = 20
    bench_s: Annotated[
        float,
        Meta(
            description="Seconds after which a benched plugin is tried again with one call.",
            ge=0.05,
            le=86_400,
        ),
    ] = 60.0
    actions_at_once: Annotated[
        int, Meta(description="Custom actions that may run at once.", ge=1, le=1000)
    ] = 32
    auth_cache_s: Annotated[
        float,
        Meta(
            description="Seconds a decision of a plugin about a key or a request is good for.",
            ge=0,
            le=3600,
        ),
    ] = 5.0


class Config(Section, frozen=True):
    """The configuration of a server; once loaded, its paths are absolute."""

    server: Server = field(default_factory=Server)
    network: Network = field(default_factory=Network)
    monitoring: Monitoring = field(default_factory=Monitoring)
    limits: Limits = field(default_factory=Limits)
    policy: Policy = field(default_factory=Policy)
    audit: Audit = field(default_factory=Audit)
    plugins: Plugins = field(default_factory=Plugins)
    backends: Annotated[
        dict[BackendName, Backend],
        Meta(description="Programs clients start by name, beside the built-in ones."),
    ] = field(default_factory=dict)
