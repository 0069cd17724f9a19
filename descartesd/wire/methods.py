"""The one table of methods: dispatcher, authorisation, clients and reference derive from it."""

from __future__ import annotations

from typing import Any, Generic, Literal, NamedTuple, TypeVar

from msgspec import Struct

from descartesd.wire import (
    action,
    agent,
    attach,
    audit,
    batch,
    cert,
    event,
    plugin,
    policy,
    server,
    talk,
)

Req = TypeVar("Req", bound=Struct)
Rep = TypeVar("Rep", bound=Struct)

Resend = Literal["read", "state", "idem", "never"]
ROLES: tuple[server.Role, ...] = ("observer", "operator", "admin")


class Method(NamedTuple, Generic[Req, Rep]):
    """One method. For a stream `reply` is the type of an item.

    `resend` says what a client may do after a lost connection: `read` changes nothing, `state`
    is idempotent by the agent's state, `idem` by its key, `never` is not sent again.
    """

    name: str
    request: type[Req]
    reply: type[Rep]
    permission: server.Role
    resend: Resend
    summary: str
    stream: bool = False
    since: str = "0.1"


SERVER_HELLO = Method(
    "server.hello", server.Empty, server.ServerHello, "observer", "read",
    "Introduce the server: version, features, limits, and who it takes the caller for.",
)  # fmt: skip
SERVER_HEALTH = Method(
    "server.health", server.Empty, server.ServerHealth, "observer", "read",
    "Tell whether every part works, and what does not.",
)  # fmt: skip
SERVER_METHODS = Method(
    "server.methods", server.Empty, server.MethodTable, "observer", "read",
    "List every method with the schema of its request and reply.",
)  # fmt: skip
AGENT_SPAWN = Method(
    "agent.spawn", agent.AgentSpawn, agent.AgentInfo, "operator", "idem",
    "Start an agent; answered when its program runs.",
)  # fmt: skip
AGENT_LIST = Method(
    "agent.list", agent.AgentList, agent.AgentPage, "observer", "read",
    "List agents, oldest first.",
)  # fmt: skip
AGENT_GET = Method(
    "agent.get", agent.AgentRef, agent.AgentInfo, "observer", "read",
    "Show one agent.",
)  # fmt: skip
AGENT_WAIT = Method(
    "agent.wait", agent.AgentRef, agent.AgentInfo, "observer", "read",
    "Answer when the agent has ended.",
)  # fmt: skip
AGENT_PAUSE = Method(
    "agent.pause", talk.AgentPause, agent.AgentInfo, "operator", "state",
    "Pause; answered when nothing of the agent runs any more.",
)  # fmt: skip
AGENT_RESUME = Method(
    "agent.resume", agent.AgentRef, agent.AgentInfo, "operator", "state",
    "Let a paused agent go on.",
)  # fmt: skip
AGENT_STOP = Method(
    "agent.stop", agent.AgentStop, agent.AgentInfo, "operator", "state",
    "Stop in order: the stop signal, the grace time, then KILL; answered when it has ended.",
)  # fmt: skip
AGENT_KILL = Method(
    "agent.kill", agent.AgentRef, agent.AgentInfo, "operator", "state",
    "Kill every process of the agent now; answered when it has ended.",
)  # fmt: skip
AGENT_SIGNAL = Method(
    "agent.signal", agent.AgentSignal, agent.Signalled, "operator", "idem",
    "Send one signal to every process of the agent.",
)  # fmt: skip
AGENT_WRITE = Method(
    "agent.write", agent.AgentWrite, agent.Written, "operator", "never",
    "Write bytes to the agent's stdin or terminal.",
)  # fmt: skip
AGENT_CLOSE_STDIN = Method(
    "agent.close_stdin", agent.AgentRef, server.Done, "operator", "state",
    "Close the agent's stdin, or send its terminal an end of file, after what was written.",
)  # fmt: skip
AGENT_OUTPUT = Method(
    "agent.output", agent.AgentOutput, agent.OutputChunk, "observer", "read",
    "Read what an agent wrote, by absolute offset.",
)  # fmt: skip
AGENT_FOLLOW = Method(
    "agent.follow", agent.AgentFollow, agent.OutputChunk, "observer", "read",
    "Stream what an agent writes, from an offset to its end.",
    stream=True,
)  # fmt: skip
AGENT_ATTACH = Method(
    "agent.attach", attach.AgentAttach, attach.AttachChunk, "operator", "read",
    "Stream what an agent writes, first the last screenful, and hold its pen if asked for.",
    stream=True,
)  # fmt: skip
AGENT_RESIZE = Method(
    "agent.resize", attach.AgentResize, server.Done, "operator", "state",
    "Set the size of the agent's terminal.",
)  # fmt: skip
AGENT_REMOVE = Method(
    "agent.remove", agent.AgentRef, server.Done, "operator", "idem",
    "Forget an ended agent: its record, its output and its name.",
)  # fmt: skip
AGENT_RESPAWN = Method(
    "agent.respawn", talk.AgentRespawn, agent.AgentInfo, "operator", "idem",
    "Start an ended agent once more: same id, name and spec, its output going on.",
)  # fmt: skip
AGENT_SAY = Method(
    "agent.say", talk.AgentSay, server.Done, "operator", "idem",
    "Say something to an agent that was started as a chat.",
)  # fmt: skip
AGENT_ANSWER = Method(
    "agent.answer", talk.AgentAnswer, server.Done, "operator", "idem",
    "Answer the question an agent waits with: whether it may use a tool.",
)  # fmt: skip
BATCH_RUN = Method(
    "batch.run", batch.BatchRun, batch.BatchResult, "observer", "idem",
    "Do one verb to many agents; the role needed is the verb's.",
)  # fmt: skip
BATCH_SPAWN = Method(
    "batch.spawn", batch.BatchSpawn, batch.BatchResult, "operator", "idem",
    "Start many agents.",
)  # fmt: skip
EVENT_FOLLOW = Method(
    "event.follow", event.EventFollow, event.Event, "observer", "read",
    "Stream what happens, from any event that is kept.",
    stream=True,
)  # fmt: skip
ACTION_LIST = Method(
    "action.list", server.Empty, action.ActionTable, "observer", "read",
    "List the custom actions, with the schemas of their parameters.",
)  # fmt: skip
ACTION_RUN = Method(
    "action.run", action.ActionRun, action.ActionResult, "observer", "idem",
    "Run a custom action; the role needed is the action's.",
)  # fmt: skip
ACTION_FOLLOW = Method(
    "action.follow", action.ActionRun, action.ActionItem, "observer", "never",
    "Run a custom action as long as the stream: how far it is, and last its result.",
    stream=True,
)  # fmt: skip
PLUGIN_LIST = Method(
    "plugin.list", server.Empty, plugin.PluginTable, "observer", "read",
    "List the plugins: what each takes part in, and how it fares.",
)  # fmt: skip
SERVER_STATS = Method(
    "server.stats", server.Empty, server.ServerStats, "observer", "read",
    "Count what has been asked and answered, and how long it took.",
)  # fmt: skip
SERVER_DRAIN = Method(
    "server.drain", server.ServerDrain, server.Drained, "admin", "state",
    "Take no new agents, and leave the others alone.",
)  # fmt: skip
SERVER_RELOAD = Method(
    "server.reload", server.Empty, server.Reloaded, "admin", "state",
    "Read the configuration again: all of it holds from now on, or nothing is changed.",
)  # fmt: skip
CERT_SIGN = Method(
    "cert.sign", cert.CertSign, cert.SignedCertificate, "admin", "idem",
    "Sign a certificate for a public key and let its holder in.",
)  # fmt: skip
CERT_TOKEN = Method(
    "cert.token", cert.CertToken, cert.CertJoin, "admin", "never",
    "Make a join string: a token by which somebody gets a certificate, once.",
)  # fmt: skip
CERT_ENROLL = Method(
    "cert.enroll", cert.CertEnroll, cert.SignedCertificate, "admin", "idem",
    "Have a key certified by a token; only for who connects with the token's key.",
)  # fmt: skip
CERT_AUTHORITY = Method(
    "cert.authority", cert.CertAuthority, cert.AuthorityTable, "admin", "idem",
    "List the authorities whose certificates are let in; trust one more, or one less.",
)  # fmt: skip
CERT_ADD = Method(
    "cert.add", cert.CertAdd, cert.CertAdded, "admin", "idem",
    "Let the holder of a certificate in that a trusted authority has signed elsewhere.",
)  # fmt: skip
CERT_PRESENT = Method(
    "cert.present", cert.CertPresent, cert.CertAdded, "admin", "idem",
    "Show a certificate of one's own; only for who connects with an introduction key.",
)  # fmt: skip
CERT_RENEW = Method(
    "cert.renew", server.Empty, cert.SignedCertificate, "observer", "idem",
    "Have one's own certificate signed anew, for the same key and name.",
)  # fmt: skip
CERT_ROTATE = Method(
    "cert.rotate", cert.CertRotate, cert.CertRotated, "admin", "idem",
    "Give the server a new host key, or a new authority, with an overlap.",
)  # fmt: skip
CERT_LIST = Method(
    "cert.list", server.Empty, cert.CertTable, "admin", "read",
    "List everybody with a certificate, and everybody whose certificate was revoked.",
)  # fmt: skip
CERT_SHOW = Method(
    "cert.show", cert.CertRef, cert.CertInfo, "admin", "read",
    "Show one certificate.",
)  # fmt: skip
CERT_REVOKE = Method(
    "cert.revoke", cert.CertRevoke, cert.CertRevoked, "admin", "idem",
    "Let a certificate and its key in no more, at once and for good.",
)  # fmt: skip
AUDIT_SHOW = Method(
    "audit.show", audit.AuditShow, audit.AuditPage, "admin", "read",
    "Show who changed what, and who was refused.",
)  # fmt: skip
AUDIT_VERIFY = Method(
    "audit.verify", server.Empty, audit.AuditReport, "admin", "read",
    "Tell whether the audit log is what was written, and where it is not.",
)  # fmt: skip
POLICY_EXPLAIN = Method(
    "policy.explain", policy.PolicyExplain, policy.PolicyExplained, "admin", "read",
    "Tell whether an identity may call a method, and which rule says so.",
)  # fmt: skip
STREAM_CREDIT = Method(
    "stream.credit", server.StreamCredit, server.Done, "observer", "never",
    "Let an open stream send more.",
)  # fmt: skip
STREAM_CANCEL = Method(
    "stream.cancel", server.StreamCancel, server.Done, "observer", "never",
    "End an open stream.",
)  # fmt: skip

METHODS: dict[str, Method[Any, Any]] = {
    method.name: method
    for method in (
        SERVER_HELLO,
        SERVER_HEALTH,
        SERVER_METHODS,
        AGENT_SPAWN,
        AGENT_LIST,
        AGENT_GET,
        AGENT_WAIT,
        AGENT_PAUSE,
        AGENT_RESUME,
        AGENT_STOP,
        AGENT_KILL,
        AGENT_SIGNAL,
        AGENT_WRITE,
        AGENT_CLOSE_STDIN,
        AGENT_OUTPUT,
        AGENT_FOLLOW,
        AGENT_ATTACH,
        AGENT_RESIZE,
        AGENT_REMOVE,
        AGENT_RESPAWN,
        AGENT_SAY,
        AGENT_ANSWER,
        BATCH_RUN,
        BATCH_SPAWN,
        ACTION_LIST,
        ACTION_RUN,
        ACTION_FOLLOW,
        PLUGIN_LIST,
        EVENT_FOLLOW,
        SERVER_STATS,
        SERVER_DRAIN,
        SERVER_RELOAD,
        CERT_SIGN,
        CERT_TOKEN,
        CERT_ENROLL,
        CERT_AUTHORITY,
        CERT_ADD,
        CERT_PRESENT,
        CERT_RENEW,
        CERT_ROTATE,
        CERT_LIST,
        CERT_SHOW,
        CERT_REVOKE,
        AUDIT_SHOW,
        AUDIT_VERIFY,
        POLICY_EXPLAIN,
        STREAM_CREDIT,
        STREAM_CANCEL,
    )
}
