"""How agents come to be started: at once when there is a slot, else queued, within bounds."""

from __future__ import annotations

import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from descartesd.agents import spec
from descartesd.agents.accounts import account_for, own_account
from descartesd.agents.backend import Backends, without_program
from descartesd.agents.book import Book
from descartesd.agents.bounds import Bounds
from descartesd.agents.ids import IdSource, name_for
from descartesd.agents.keeper_link import KeeperLink
from descartesd.agents.lifecycle import ENDED
from descartesd.agents.record import Agent
from descartesd.agents.secrets import NO_SECRETS, Secrets, check_given
from descartesd.config.role import Quotas
from descartesd.errors import (
    AbortedError,
    AlreadyExistsError,
    DescartesError,
    InvalidArgumentError,
    ResourceExhaustedError,
    UnavailableError,
)
from descartesd.wire.agent import AgentSpec

DRAINING = "the server is draining"
_UNLIMITED = Quotas()
# How long to wait for what nobody can foresee: the end of an agent.
_SOON_S = 1.0


def _no_quota(_owner: str) -> Quotas:
    return _UNLIMITED


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """How many agents may be alive, how they are started, and how many may wait for that."""

    max_agents: int
    runner: spec.RunnerDefaults
    max_queued: int = 1000
    # What each owner may have at once.
    quotas_of: Callable[[str], Quotas] = _no_quota


@dataclass(slots=True)
class SpawnCounts:
    """Agents asked for since the start; one that is queued has succeeded."""

    requested: int = 0
    succeeded: int = 0
    failed: int = 0


@dataclass(slots=True)
class Reservation:
    """An agent with a slot, not yet asked for at the keeper."""

    # The connection to the keeper it was made under.
    connection: int
    is_cancelled: bool = False


class Starts:
    """Makes new agents and further attempts, and has the keeper start them."""

    def __init__(self, book: Book, keeper: KeeperLink, options: FleetOptions) -> None:
        self._book = book
        self._keeper = keeper
        self._options = options
        self._id_source = IdSource(book.clock)
        self.counts = SpawnCounts()
        self.reserved: dict[str, Reservation] = {}
        self.secrets = Secrets()
        self._closed: str | None = None

    @property
    def closed(self) -> str | None:
        """Why no agent is started now; None while they are."""
        return self._closed

    @closed.setter
    def closed(self, why: str | None) -> None:
        self._closed = why
        self._book.queue.on_turn()

    @property
    def bounds(self) -> tuple[int, int]:
        """How many agents may be alive, and how many may wait for that."""
        return self._options.max_agents, self._options.max_queued

    @property
    def backends(self) -> Backends:
        """The programs agents may be started with by name."""
        return self._options.runner.backends

    @property
    def has_slot(self) -> bool:
        """Whether one more agent may be alive."""
        return self._book.alive + len(self._book.queue.taken) < self._options.max_agents

    def has_room(self, owner: str) -> bool:
        """Whether one more agent of an owner may be alive, as far as its quota goes."""
        most = self._options.quotas_of(owner).agents
        return most is None or self._book.alive_of[owner] + self._book.queue.taken_of[owner] < most

    def reserve(
        self,
        wanted: AgentSpec,
        owner: str,
        secrets: Mapping[str, str] = NO_SECRETS,
        bounds: Bounds | None = None,
    ) -> Agent:
        """Make a new agent's record, not yet durable: id, name and place are taken from here on.

        Raises InvalidArgumentError, AlreadyExistsError, ResourceExhaustedError, UnavailableError.
        """
        self.counts.requested += 1
        try:
            check_given(wanted, secrets)
            agent = self._reserve(wanted, owner, bounds)
        except DescartesError:
            self.counts.failed += 1
            raise
        self.secrets.keep(agent.id, secrets)
        return agent

    def reconfigure(self, options: FleetOptions) -> None:
        """Have other bounds and defaults from the next start on."""
        self._options = options

    @property
    def is_apart(self) -> bool:
        """Whether agents run under accounts that are not this server's."""
        return self._options.runner.account.pw_uid != own_account().pw_uid

    @property
    def may_be_others(self) -> bool:
        """Whether an agent may run as another user than the next one."""
        return self.is_apart or own_account().pw_uid == 0

    def account(self, wanted: AgentSpec, owner: str) -> pwd.struct_passwd:
        """The account of the host an agent of this owner runs under; raises as `account_for`."""
        return account_for(wanted.user, owner, self._options.runner.account)

    def _reserve(self, wanted: AgentSpec, owner: str, bounds: Bounds | None) -> Agent:
        spec.check(wanted, self.backends)
        self.account(wanted, owner)
        waits = self.admit(owner)
        agent_id = self._id_source.next()
        name = wanted.name or self._free_name(wanted.backend or wanted.command[0])
        holder = self._book.roster.names.get(name)
        if holder is not None:
            raise AlreadyExistsError(
                f"the name '{name}' is taken by agent {holder.id}, which is {holder.state}",
                hint=f"take another name, {_made_free(holder)}, or spawn with --replace",
            )
        agent = Agent(
            id=agent_id,
            name=name,
            owner=owner,
            spec=wanted,
            bounds=bounds,
            created_at=self._book.clock(),
            state="queued" if waits else "starting",
            turn=self._book.queue.next_turn() if waits else 0,
            output_bytes=wanted.limits.output_bytes or self._options.runner.output_bytes,
            dialect=spec.dialect_of(wanted, self._options.runner.backends),
        )
        self._book.add(agent)
        if not waits:
            self.reserved[agent.id] = Reservation(self._keeper.connections)
        return agent

    def admit(self, owner: str) -> bool:
        """Tell whether a further agent of an owner has to wait for a slot.

        Raises ResourceExhaustedError, UnavailableError while there may be none.
        """
        self._check_open()
        if self.has_slot and self.has_room(owner) and not self._has_earlier():
            return False
        if self._is_full():
            raise ResourceExhaustedError(
                f"{self._book.alive} agents are alive (server.max_agents is"
                f" {self._options.max_agents}) and {self._book.queued} are queued"
                f" (limits.max_queued is {self._options.max_queued})",
                hint="ask again later, stop an agent, or raise one of these settings",
            )
        self._check_queued(owner)
        return True

    def _has_earlier(self) -> bool:
        """Whether somebody waits who goes first; not who waits for his own quota alone."""
        book = self._book
        if not book.queued and not len(book.queue):
            return False
        return book.queue.has_turn(self.has_room) or any(map(self.has_room, book.queued_of))

    def _check_queued(self, owner: str) -> None:
        quotas = self._options.quotas_of(owner)
        waiting = self._book.queued_of[owner]
        if quotas.queued is None or waiting < quotas.queued:
            return
        if waiting - self._about_to_start(owner) >= quotas.queued:
            raise ResourceExhaustedError(
                f"{owner} has {self._book.alive_of[owner]} agents alive (its quota agents is"
                f" {quotas.agents or 'none'}) and {waiting} queued (its quota queued is"
                f" {quotas.queued})",
                hint="ask again later, or stop an agent",
                details={"retry_after_s": _SOON_S},
            )

    def admit_in_place_of(self, holder: Agent, owner: str) -> None:
        """Find out whether there may be a further agent of an owner once this one is gone.

        Raises ResourceExhaustedError, UnavailableError while there may be none.
        """
        if holder.state in ENDED:
            self.admit(owner)
            return
        # Its slot, or its place in the queue, becomes free.
        self._check_open()
        if holder.owner != owner and not self.has_room(owner):
            self._check_queued(owner)

    def _check_open(self) -> None:
        self._book.registry.check()
        if self.closed is not None:
            hint = "ask another server"
            if self.closed == DRAINING:
                hint += ", or end the drain with: descartesctl server drain --undo"
            raise UnavailableError(f"no agent can be started: {self.closed}", hint=hint)
        if not self._keeper.connected:
            raise UnavailableError(
                "no agent can be started: the keeper is not connected",
                hint="see what happened with: descartesctl server health",
            )

    def _is_full(self) -> bool:
        if self._book.queued < self._options.max_queued:
            return False
        return self._book.queued - self._about_to_start() >= self._options.max_queued

    def _about_to_start(self, owner: str | None = None) -> int:
        """How many, of one owner or of all, were given a slot and wait no more."""
        taken = map(self._book.roster.get, self._book.queue.taken)
        return sum(
            agent is not None and agent.state == "queued" and owner in (None, agent.owner)
            for agent in taken
        )

    def _free_name(self, program: str) -> str:
        while (name := name_for(program)) in self._book.roster.names:
            continue
        return name

    async def start(self, agent: Agent) -> None:
        """Start a reserved or renewed agent, once it is durable; a queued one waits from then on.

        One that was cancelled by then is ended. What the keeper refuses leaves nothing of a new
        agent; of a renewed one the attempt failed.
        Raises what the keeper says, AbortedError when the keeper is lost meanwhile and has not
        started it, UnavailableError when the agent cannot be recorded.
        """
        try:
            await self._book.registry.durable()
            await self._proceed(agent)
        except AbortedError:
            # Nobody knows what the keeper has started by now: recovery looks, and tells.
            await self._book.holds(agent, lambda: agent.state != "starting")
            if agent.started_at is None:
                self._note_failed(agent)
                raise
        except DescartesError as exc:
            self.release(agent, exc.message)
            raise
        self.counts.succeeded += 1

    async def _proceed(self, agent: Agent) -> None:
        if agent.state == "queued":
            self._book.wait(agent)
        elif agent.id in self.reserved:
            if self._take_up(agent).is_cancelled:
                self._book.cancel(agent, agent.halt_reason)
            else:
                await self.launch(agent)

    def _take_up(self, agent: Agent) -> Reservation:
        reservation = self.reserved.pop(agent.id)
        # After a loss of the keeper recovery gives up every agent it finds not started.
        if reservation.connection != self._keeper.connections:
            raise AbortedError("the keeper was lost before it was asked to start the agent")
        return reservation

    def release(self, agent: Agent, why: str | None = None) -> None:
        """Give up an agent that is not started: nothing is left of a new one, not its name."""
        self.reserved.pop(agent.id, None)
        self._book.give_up(agent, why)
        self._note_failed(agent)

    def _note_failed(self, agent: Agent) -> None:
        self.counts.failed += 1
        if self._book.roster.get(agent.id) is None:
            self.secrets.drop(agent.id)

    def renew(self, agent: Agent) -> None:
        """Begin a further attempt of an ended agent, not yet durable: id, name and output stay.

        Raises ResourceExhaustedError, UnavailableError.
        """
        waits = self.admit(agent.owner)
        self.counts.requested += 1
        agent.begin_attempt()
        agent.restarts = agent.restarts_in_a_row = 0
        agent.halted = False
        self._book.set_state(agent, "queued")
        if waits:
            agent.turn = self._book.queue.next_turn()
        else:
            self.reserved[agent.id] = Reservation(self._keeper.connections)
            self._book.set_state(agent, "starting")
        self._book.put(agent)

    async def launch(self, agent: Agent) -> None:
        """Have the keeper start an agent now; raises what the keeper says."""
        attempt = agent.attempt
        account = self.account(agent.spec, agent.owner)
        given = spec.Given(agent.resume, self.secrets.of(agent), account, agent.bounds)
        fields = spec.launch_fields(agent.spec, agent.id, agent.name, self._options.runner, given)
        try:
            started = await self._keeper.spawn(attempt=attempt, **fields)
        except InvalidArgumentError as exc:
            self._name_backend(agent.spec, exc)
            raise
        # It may have ended already: the exit is told on its own.
        agent.limits_enforced = started.get("limits_enforced", {})
        self._book.started(
            agent,
            attempt,
            pid=int(started["pid"]),
            start_time=int(started["start_time"]),
            started_at=started["started_at"],
        )

    async def try_out(
        self,
        wanted: AgentSpec,
        owner: str,
        secrets: Mapping[str, str] = NO_SECRETS,
        bounds: Bounds | None = None,
    ) -> None:
        """Find out whether this could be started, starting nothing; raises as `start` does."""
        spec.check(wanted, self.backends)
        check_given(wanted, secrets)
        given = spec.Given(None, secrets, self.account(wanted, owner), bounds)
        fields = spec.launch_fields(wanted, "0" * 20, "trial", self._options.runner, given)
        try:
            await self._keeper.spawn(attempt=1, trial=True, **fields)
        except InvalidArgumentError as exc:
            self._name_backend(wanted, exc)
            raise

    def _name_backend(self, wanted: AgentSpec, exc: InvalidArgumentError) -> None:
        """Have an error about a backend's program say so; raises it."""
        backend = self.backends.get(wanted.backend)
        if backend is not None and exc.message.startswith(f"program '{backend.start[0]}'"):
            raise without_program(backend, exc) from exc


def _made_free(holder: Agent) -> str:
    """How the name of an agent becomes free."""
    if holder.state in ENDED:
        return f"remove it with: descartesctl agent remove {holder.name}"
    return f"stop it with: descartesctl agent stop {holder.name}, then remove it"
