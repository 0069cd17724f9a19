"""One function for each row of the table of methods; by generate_client.py."""

# ruff: noqa: A002, PLR0913  # parameters are those on the wire
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from descartesd.wire.action import ActionItem, ActionResult, ActionRun, ActionTable
from descartesd.wire.agent import (
    AgentFollow,
    AgentId,
    AgentInfo,
    AgentList,
    AgentOutput,
    AgentPage,
    AgentRef,
    AgentSignal,
    AgentSpawn,
    AgentSpec,
    AgentStop,
    AgentWrite,
    Argument,
    EnvName,
    FollowOffsets,
    LabelSelector,
    Name,
    OutputChunk,
    Owner,
    Regex,
    Seconds,
    Signal,
    Signalled,
    State,
    StreamName,
    Task,
    TerminalSize,
    Writer,
    Written,
)
from descartesd.wire.attach import AgentAttach, AgentResize, AttachChunk, AttachOffsets
from descartesd.wire.audit import AuditPage, AuditReport, AuditShow, Time, Word
from descartesd.wire.batch import BatchResult, BatchRun, BatchSpawn, Selector, Verb
from descartesd.wire.cert import (
    AuthorityTable,
    CertAdd,
    CertAdded,
    CertAuthority,
    CertEnroll,
    CertInfo,
    CertJoin,
    CertPresent,
    CertRef,
    CertRevoke,
    CertRevoked,
    CertRotate,
    CertRotated,
    CertSign,
    CertTable,
    CertToken,
    Days,
    Fingerprint,
    PublicKey,
    Serial,
    SignedCertificate,
)
from descartesd.wire.event import Event, EventFollow
from descartesd.wire.methods import (
    ACTION_FOLLOW,
    ACTION_LIST,
    ACTION_RUN,
    AGENT_ANSWER,
    AGENT_ATTACH,
    AGENT_CLOSE_STDIN,
    AGENT_FOLLOW,
    AGENT_GET,
    AGENT_KILL,
    AGENT_LIST,
    AGENT_OUTPUT,
    AGENT_PAUSE,
    AGENT_REMOVE,
    AGENT_RESIZE,
    AGENT_RESPAWN,
    AGENT_RESUME,
    AGENT_SAY,
    AGENT_SIGNAL,
    AGENT_SPAWN,
    AGENT_STOP,
    AGENT_WAIT,
    AGENT_WRITE,
    AUDIT_SHOW,
    AUDIT_VERIFY,
    BATCH_RUN,
    BATCH_SPAWN,
    CERT_ADD,
    CERT_AUTHORITY,
    CERT_ENROLL,
    CERT_LIST,
    CERT_PRESENT,
    CERT_RENEW,
    CERT_REVOKE,
    CERT_ROTATE,
    CERT_SHOW,
    CERT_SIGN,
    CERT_TOKEN,
    EVENT_FOLLOW,
    PLUGIN_LIST,
    POLICY_EXPLAIN,
    SERVER_DRAIN,
    SERVER_HEALTH,
    SERVER_HELLO,
    SERVER_METHODS,
    SERVER_RELOAD,
    SERVER_STATS,
)
from descartesd.wire.plugin import PluginTable
from descartesd.wire.policy import PolicyExplain, PolicyExplained
from descartesd.wire.server import (
    Done,
    Drained,
    Empty,
    MethodTable,
    Reloaded,
    ServerDrain,
    ServerHealth,
    ServerHello,
    ServerStats,
)
from descartesd.wire.talk import AgentAnswer, AgentPause, AgentRespawn, AgentSay

if TYPE_CHECKING:
    from descartesd.client.aio import AsyncStream
    from descartesd.client.requests import AsyncCaller


class AsyncMethods:
    """Every method, under its noun."""

    def __init__(self, caller: AsyncCaller) -> None:
        self.action = AsyncActionMethods(caller)
        self.agent = AsyncAgentMethods(caller)
        self.audit = AsyncAuditMethods(caller)
        self.batch = AsyncBatchMethods(caller)
        self.cert = AsyncCertMethods(caller)
        self.event = AsyncEventMethods(caller)
        self.plugin = AsyncPluginMethods(caller)
        self.policy = AsyncPolicyMethods(caller)
        self.server = AsyncServerMethods(caller)


class AsyncActionMethods:
    """The methods `action.*`."""

    __slots__ = ("_caller",)

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller

    async def list(self, *, deadline_s: float | None = None) -> ActionTable:
        """List the custom actions, with the schemas of their parameters."""
        return await self._caller.call(ACTION_LIST, Empty(), deadline_s=deadline_s)

    async def run(
        self,
        *,
        name: Name,
        params: dict[str, Any] | None = None,
        agent: AgentId | None = None,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> ActionResult:
        """Run a custom action; the role needed is the action's."""
        return await self._caller.call(
            ACTION_RUN,
            ActionRun(name=name, params={} if params is None else params, agent=agent),
            deadline_s=deadline_s,
            idem=idem,
        )

    def follow(
        self,
        *,
        name: Name,
        params: dict[str, Any] | None = None,
        agent: AgentId | None = None,
        deadline_s: float | None = None,
    ) -> AsyncStream[ActionItem]:
        """Run a custom action as long as the stream: how far it is, and last its result."""
        return self._caller.stream(
            ACTION_FOLLOW,
            ActionRun(name=name, params={} if params is None else params, agent=agent),
            deadline_s=deadline_s,
        )


class AsyncAgentMethods:
    """The methods `agent.*`."""

    __slots__ = ("_caller",)

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller

    async def spawn(
        self,
        *,
        spec: AgentSpec,
        replace: bool = False,
        secrets: dict[EnvName, Argument] | None = None,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> AgentInfo:
        """Start an agent; answered when its program runs."""
        return await self._caller.call(
            AGENT_SPAWN,
            AgentSpawn(spec=spec, replace=replace, secrets={} if secrets is None else secrets),
            deadline_s=deadline_s,
            idem=idem,
        )

    async def list(
        self,
        *,
        states: Sequence[State] = (),
        labels: LabelSelector | None = None,
        owner: Owner | None = None,
        limit: int = 200,
        cursor: str | None = None,
        deadline_s: float | None = None,
    ) -> AgentPage:
        """List agents, oldest first."""
        return await self._caller.call(
            AGENT_LIST,
            AgentList(
                states=list(states),
                labels={} if labels is None else labels,
                owner=owner,
                limit=limit,
                cursor=cursor,
            ),
            deadline_s=deadline_s,
        )

    async def get(self, *, id: AgentId, deadline_s: float | None = None) -> AgentInfo:
        """Show one agent."""
        return await self._caller.call(AGENT_GET, AgentRef(id=id), deadline_s=deadline_s)

    async def wait(self, *, id: AgentId, deadline_s: float | None = None) -> AgentInfo:
        """Answer when the agent has ended."""
        return await self._caller.call(AGENT_WAIT, AgentRef(id=id), deadline_s=deadline_s)

    async def pause(
        self,
        *,
        id: AgentId,
        mode: Literal["freeze", "cooperative"] = "freeze",
        deadline_s: float | None = None,
    ) -> AgentInfo:
        """Pause; answered when nothing of the agent runs any more."""
        return await self._caller.call(
            AGENT_PAUSE, AgentPause(id=id, mode=mode), deadline_s=deadline_s
        )

    async def resume(self, *, id: AgentId, deadline_s: float | None = None) -> AgentInfo:
        """Let a paused agent go on."""
        return await self._caller.call(AGENT_RESUME, AgentRef(id=id), deadline_s=deadline_s)

    async def stop(
        self,
        *,
        id: AgentId,
        signal: Signal | None = None,
        grace_s: Seconds | None = None,
        deadline_s: float | None = None,
    ) -> AgentInfo:
        """Stop in order: the stop signal, the grace time, then KILL; answered when it has ended."""
        return await self._caller.call(
            AGENT_STOP, AgentStop(id=id, signal=signal, grace_s=grace_s), deadline_s=deadline_s
        )

    async def kill(self, *, id: AgentId, deadline_s: float | None = None) -> AgentInfo:
        """Kill every process of the agent now; answered when it has ended."""
        return await self._caller.call(AGENT_KILL, AgentRef(id=id), deadline_s=deadline_s)

    async def signal(
        self,
        *,
        id: AgentId,
        signal: Signal,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> Signalled:
        """Send one signal to every process of the agent."""
        return await self._caller.call(
            AGENT_SIGNAL, AgentSignal(id=id, signal=signal), deadline_s=deadline_s, idem=idem
        )

    async def write(
        self,
        *,
        id: AgentId,
        data: bytes,
        writer: Writer | None = None,
        offset: int | None = None,
        deadline_s: float | None = None,
    ) -> Written:
        """Write bytes to the agent's stdin or terminal."""
        return await self._caller.call(
            AGENT_WRITE,
            AgentWrite(id=id, data=data, writer=writer, offset=offset),
            deadline_s=deadline_s,
        )

    async def close_stdin(self, *, id: AgentId, deadline_s: float | None = None) -> Done:
        """Close the agent's stdin, or send its terminal an end of file, after what was written."""
        return await self._caller.call(AGENT_CLOSE_STDIN, AgentRef(id=id), deadline_s=deadline_s)

    async def output(
        self,
        *,
        id: AgentId,
        stream: StreamName = "stdout",
        offset: int = 0,
        limit: int = 262144,
        tail: int | None = None,
        since: Time | None = None,
        lines: int | None = None,
        regex: Regex | None = None,
        timestamps: bool = False,
        deadline_s: float | None = None,
    ) -> OutputChunk:
        """Read what an agent wrote, by absolute offset."""
        return await self._caller.call(
            AGENT_OUTPUT,
            AgentOutput(
                id=id,
                stream=stream,
                offset=offset,
                limit=limit,
                tail=tail,
                since=since,
                lines=lines,
                regex=regex,
                timestamps=timestamps,
            ),
            deadline_s=deadline_s,
        )

    def follow(
        self,
        *,
        id: AgentId,
        streams: Sequence[StreamName] = ("stdout", "stderr"),
        offsets: FollowOffsets | None = None,
        tail: int | None = None,
        since: Time | None = None,
        regex: Regex | None = None,
        timestamps: bool = False,
        deadline_s: float | None = None,
    ) -> AsyncStream[OutputChunk]:
        """Stream what an agent writes, from an offset to its end."""
        return self._caller.stream(
            AGENT_FOLLOW,
            AgentFollow(
                id=id,
                streams=list(streams),
                offsets=FollowOffsets() if offsets is None else offsets,
                tail=tail,
                since=since,
                regex=regex,
                timestamps=timestamps,
            ),
            deadline_s=deadline_s,
        )

    def attach(
        self,
        *,
        id: AgentId,
        writer: Writer | None = None,
        steal: bool = False,
        offsets: AttachOffsets | None = None,
        deadline_s: float | None = None,
    ) -> AsyncStream[AttachChunk]:
        """Stream what an agent writes, first the last screenful, and hold its pen if asked for."""
        return self._caller.stream(
            AGENT_ATTACH,
            AgentAttach(
                id=id,
                writer=writer,
                steal=steal,
                offsets=AttachOffsets() if offsets is None else offsets,
            ),
            deadline_s=deadline_s,
        )

    async def resize(
        self,
        *,
        id: AgentId,
        rows: TerminalSize,
        cols: TerminalSize,
        deadline_s: float | None = None,
    ) -> Done:
        """Set the size of the agent's terminal."""
        return await self._caller.call(
            AGENT_RESIZE, AgentResize(id=id, rows=rows, cols=cols), deadline_s=deadline_s
        )

    async def remove(
        self, *, id: AgentId, deadline_s: float | None = None, idem: str | None = None
    ) -> Done:
        """Forget an ended agent: its record, its output and its name."""
        return await self._caller.call(
            AGENT_REMOVE, AgentRef(id=id), deadline_s=deadline_s, idem=idem
        )

    async def respawn(
        self,
        *,
        id: AgentId,
        resume: bool = False,
        task: Task | None = None,
        secrets: dict[EnvName, Argument] | None = None,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> AgentInfo:
        """Start an ended agent once more: same id, name and spec, its output going on."""
        return await self._caller.call(
            AGENT_RESPAWN,
            AgentRespawn(
                id=id, resume=resume, task=task, secrets={} if secrets is None else secrets
            ),
            deadline_s=deadline_s,
            idem=idem,
        )

    async def say(
        self, *, id: AgentId, text: Task, deadline_s: float | None = None, idem: str | None = None
    ) -> Done:
        """Say something to an agent that was started as a chat."""
        return await self._caller.call(
            AGENT_SAY, AgentSay(id=id, text=text), deadline_s=deadline_s, idem=idem
        )

    async def answer(
        self,
        *,
        id: AgentId,
        decision: Literal["allow", "deny"],
        message: str | None = None,
        question: Word | None = None,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> Done:
        """Answer the question an agent waits with: whether it may use a tool."""
        return await self._caller.call(
            AGENT_ANSWER,
            AgentAnswer(id=id, decision=decision, message=message, question=question),
            deadline_s=deadline_s,
            idem=idem,
        )


class AsyncAuditMethods:
    """The methods `audit.*`."""

    __slots__ = ("_caller",)

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller

    async def show(
        self,
        *,
        who: Word | None = None,
        method: Word | None = None,
        target: Word | None = None,
        since: Time | None = None,
        until: Time | None = None,
        limit: int = 100,
        cursor: int | None = None,
        deadline_s: float | None = None,
    ) -> AuditPage:
        """Show who changed what, and who was refused."""
        return await self._caller.call(
            AUDIT_SHOW,
            AuditShow(
                who=who,
                method=method,
                target=target,
                since=since,
                until=until,
                limit=limit,
                cursor=cursor,
            ),
            deadline_s=deadline_s,
        )

    async def verify(self, *, deadline_s: float | None = None) -> AuditReport:
        """Tell whether the audit log is what was written, and where it is not."""
        return await self._caller.call(AUDIT_VERIFY, Empty(), deadline_s=deadline_s)


class AsyncBatchMethods:
    """The methods `batch.*`."""

    __slots__ = ("_caller",)

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller

    async def run(
        self,
        *,
        verb: Verb,
        ids: Sequence[AgentId] = (),
        select: Selector | None = None,
        params: dict[str, Any] | None = None,
        fail_fast: bool = False,
        dry_run: bool = False,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> BatchResult:
        """Do one verb to many agents; the role needed is the verb's."""
        return await self._caller.call(
            BATCH_RUN,
            BatchRun(
                verb=verb,
                ids=list(ids),
                select=select,
                params={} if params is None else params,
                fail_fast=fail_fast,
                dry_run=dry_run,
            ),
            deadline_s=deadline_s,
            idem=idem,
        )

    async def spawn(
        self,
        *,
        specs: list[AgentSpec],
        fail_fast: bool = False,
        secrets: dict[EnvName, Argument] | None = None,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> BatchResult:
        """Start many agents."""
        return await self._caller.call(
            BATCH_SPAWN,
            BatchSpawn(
                specs=specs, fail_fast=fail_fast, secrets={} if secrets is None else secrets
            ),
            deadline_s=deadline_s,
            idem=idem,
        )


class AsyncCertMethods:
    """The methods `cert.*`."""

    __slots__ = ("_caller",)

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller

    async def sign(
        self,
        *,
        public_key: PublicKey,
        name: Name,
        role: Name,
        days: Days = 365,
        renew_days: Days | None = None,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> SignedCertificate:
        """Sign a certificate for a public key and let its holder in."""
        return await self._caller.call(
            CERT_SIGN,
            CertSign(public_key=public_key, name=name, role=role, days=days, renew_days=renew_days),
            deadline_s=deadline_s,
            idem=idem,
        )

    async def token(
        self,
        *,
        role: Name | None = None,
        ttl_s: float = 900.0,
        introduction: bool = False,
        name: Name | None = None,
        days: Days = 365,
        renew_days: Days | None = None,
        deadline_s: float | None = None,
    ) -> CertJoin:
        """Make a join string: a token by which somebody gets a certificate, once."""
        return await self._caller.call(
            CERT_TOKEN,
            CertToken(
                role=role,
                ttl_s=ttl_s,
                introduction=introduction,
                name=name,
                days=days,
                renew_days=renew_days,
            ),
            deadline_s=deadline_s,
        )

    async def enroll(
        self,
        *,
        public_key: PublicKey,
        name: Name | None = None,
        suggestion: Name | None = None,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> SignedCertificate:
        """Have a key certified by a token; only for who connects with the token's key."""
        return await self._caller.call(
            CERT_ENROLL,
            CertEnroll(public_key=public_key, name=name, suggestion=suggestion),
            deadline_s=deadline_s,
            idem=idem,
        )

    async def authority(
        self,
        *,
        trust: str | None = None,
        distrust: Fingerprint | None = None,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> AuthorityTable:
        """List the authorities whose certificates are let in; trust one more, or one less."""
        return await self._caller.call(
            CERT_AUTHORITY,
            CertAuthority(trust=trust, distrust=distrust),
            deadline_s=deadline_s,
            idem=idem,
        )

    async def add(
        self, *, certificate: str, deadline_s: float | None = None, idem: str | None = None
    ) -> CertAdded:
        """Let the holder of a certificate in that a trusted authority has signed elsewhere."""
        return await self._caller.call(
            CERT_ADD, CertAdd(certificate=certificate), deadline_s=deadline_s, idem=idem
        )

    async def present(
        self, *, certificate: str, deadline_s: float | None = None, idem: str | None = None
    ) -> CertAdded:
        """Show a certificate of one's own; only for who connects with an introduction key."""
        return await self._caller.call(
            CERT_PRESENT, CertPresent(certificate=certificate), deadline_s=deadline_s, idem=idem
        )

    async def renew(
        self, *, deadline_s: float | None = None, idem: str | None = None
    ) -> SignedCertificate:
        """Have one's own certificate signed anew, for the same key and name."""
        return await self._caller.call(CERT_RENEW, Empty(), deadline_s=deadline_s, idem=idem)

    async def rotate(
        self,
        *,
        what: Literal["host", "authority"],
        overlap_s: float = 2592000.0,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> CertRotated:
        """Give the server a new host key, or a new authority, with an overlap."""
        return await self._caller.call(
            CERT_ROTATE,
            CertRotate(what=what, overlap_s=overlap_s),
            deadline_s=deadline_s,
            idem=idem,
        )

    async def list(self, *, deadline_s: float | None = None) -> CertTable:
        """List everybody with a certificate, and everybody whose certificate was revoked."""
        return await self._caller.call(CERT_LIST, Empty(), deadline_s=deadline_s)

    async def show(
        self,
        *,
        name: Name | None = None,
        fingerprint: Fingerprint | None = None,
        serial: Serial | None = None,
        deadline_s: float | None = None,
    ) -> CertInfo:
        """Show one certificate."""
        return await self._caller.call(
            CERT_SHOW,
            CertRef(name=name, fingerprint=fingerprint, serial=serial),
            deadline_s=deadline_s,
        )

    async def revoke(
        self,
        *,
        name: Name | None = None,
        fingerprint: Fingerprint | None = None,
        serial: Serial | None = None,
        even_unknown: bool = False,
        kill_agents: bool = False,
        deadline_s: float | None = None,
        idem: str | None = None,
    ) -> CertRevoked:
        """Let a certificate and its key in no more, at once and for good."""
        return await self._caller.call(
            CERT_REVOKE,
            CertRevoke(
                name=name,
                fingerprint=fingerprint,
                serial=serial,
                even_unknown=even_unknown,
                kill_agents=kill_agents,
            ),
            deadline_s=deadline_s,
            idem=idem,
        )


class AsyncEventMethods:
    """The methods `event.*`."""

    __slots__ = ("_caller",)

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller

    def follow(
        self, *, since: int | None = None, deadline_s: float | None = None
    ) -> AsyncStream[Event]:
        """Stream what happens, from any event that is kept."""
        return self._caller.stream(EVENT_FOLLOW, EventFollow(since=since), deadline_s=deadline_s)


class AsyncPluginMethods:
    """The methods `plugin.*`."""

    __slots__ = ("_caller",)

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller

    async def list(self, *, deadline_s: float | None = None) -> PluginTable:
        """List the plugins: what each takes part in, and how it fares."""
        return await self._caller.call(PLUGIN_LIST, Empty(), deadline_s=deadline_s)


class AsyncPolicyMethods:
    """The methods `policy.*`."""

    __slots__ = ("_caller",)

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller

    async def explain(
        self,
        *,
        identity: Owner,
        method: str,
        id: AgentId | None = None,
        deadline_s: float | None = None,
    ) -> PolicyExplained:
        """Tell whether an identity may call a method, and which rule says so."""
        return await self._caller.call(
            POLICY_EXPLAIN,
            PolicyExplain(identity=identity, method=method, id=id),
            deadline_s=deadline_s,
        )


class AsyncServerMethods:
    """The methods `server.*`."""

    __slots__ = ("_caller",)

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller

    async def hello(self, *, deadline_s: float | None = None) -> ServerHello:
        """Introduce the server: version, features, limits, and who it takes the caller for."""
        return await self._caller.call(SERVER_HELLO, Empty(), deadline_s=deadline_s)

    async def health(self, *, deadline_s: float | None = None) -> ServerHealth:
        """Tell whether every part works, and what does not."""
        return await self._caller.call(SERVER_HEALTH, Empty(), deadline_s=deadline_s)

    async def methods(self, *, deadline_s: float | None = None) -> MethodTable:
        """List every method with the schema of its request and reply."""
        return await self._caller.call(SERVER_METHODS, Empty(), deadline_s=deadline_s)

    async def stats(self, *, deadline_s: float | None = None) -> ServerStats:
        """Count what has been asked and answered, and how long it took."""
        return await self._caller.call(SERVER_STATS, Empty(), deadline_s=deadline_s)

    async def drain(self, *, undo: bool = False, deadline_s: float | None = None) -> Drained:
        """Take no new agents, and leave the others alone."""
        return await self._caller.call(SERVER_DRAIN, ServerDrain(undo=undo), deadline_s=deadline_s)

    async def reload(self, *, deadline_s: float | None = None) -> Reloaded:
        """Read the configuration again: all of it holds from now on, or nothing is changed."""
        return await self._caller.call(SERVER_RELOAD, Empty(), deadline_s=deadline_s)
