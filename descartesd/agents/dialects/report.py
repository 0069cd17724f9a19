"""What one agent has said of itself so far: all that is to survive between two of its lines."""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct, field

from descartesd.wire import said as wire
from descartesd.wire.agent import Activity

Verdict = Literal["success", "failure"]
Budget = Literal["tokens", "cost_usd"]

# It comes back in an argument vector when the conversation goes on: it must not be an option.
_SESSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_TOOLS_MAX = 256
_QUESTIONS_MAX = 4
_INPUT_MAX = 1 << 20
_INPUT_SHOWN = 500
_WORD_MAX = 256
# Beyond these nothing was ever counted: a program that says so is wrong.
_TOKENS_MAX = 1 << 53
_COST_MAX = 1e9


class Question(Struct, frozen=True, kw_only=True):
    """A tool the agent wants to use and waits for leave; `input` is the tool's, as JSON."""

    id: str
    tool: str
    input: bytes
    tool_use_id: str | None = None

    def shown(self) -> wire.Question:
        """As clients are told."""
        text = self.input[: 4 * _INPUT_SHOWN + 1].decode(errors="replace")
        cut = text if len(text) <= _INPUT_SHOWN else f"{text[:_INPUT_SHOWN]}…"
        return wire.Question(id=self.id, tool=self.tool, input=cut)


class Report(Struct, kw_only=True):
    """The sums go on over all attempts; the rest is of the present one.

    What a conversation counts by itself begins anew with another conversation only.
    """

    attempt: int = 0
    # Where in stdout the first line begins that is not in the report; with `is_skipping` a line
    # has begun before that, of which nothing is wanted.
    offset: int = 0
    is_skipping: bool = False
    activity: Activity = "unknown"
    progress: float | None = None
    session_id: str | None = None
    # Whether a final event is due before the agent exits, and what the last one said.
    has_final: bool = False
    verdict: Verdict | None = None
    tools: list[str] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    tokens_before: int = 0
    session_tokens: int | None = None
    cost_before: float = 0.0
    session_cost: float | None = None
    # Lines taken, lines that are no event, events of another agent, lines too long to be looked at.
    read: int = 0
    ignored: int = 0
    foreign: int = 0
    too_long: int = 0
    # The budgets found spent in this attempt, and whether a pause for that is still to be made.
    spent: list[Budget] = field(default_factory=list)
    is_to_pause: bool = False

    def next_attempt(self, attempt: int, activity: Activity) -> None:
        """Begin with an attempt: what it says is its own, what it spends is added."""
        self.attempt = attempt
        self.activity = activity
        self.progress = None
        self.has_final = False
        self.verdict = None
        self.tools.clear()
        self.questions.clear()
        self.spent.clear()
        self.is_to_pause = False

    @property
    def tokens(self) -> int | None:
        """Tokens of all attempts; None while none were told."""
        if self.session_tokens is None:
            return self.tokens_before or None
        return self.tokens_before + self.session_tokens

    @property
    def cost_usd(self) -> float | None:
        """US dollars of all attempts; None while none were told."""
        if self.session_cost is None:
            return self.cost_before or None
        return self.cost_before + self.session_cost

    def lines(self) -> wire.EventLines:
        """What became of the lines of stdout."""
        return wire.EventLines(
            read=self.read, ignored=self.ignored, foreign=self.foreign, too_long=self.too_long
        )

    @property
    def lacks_result(self) -> bool:
        """Whether an exit now would come before the success that is due."""
        return self.has_final and self.verdict != "success"

    @property
    def asked_bytes(self) -> int:
        """What makes its record large: the questions waited with."""
        return sum(len(each.input) for each in self.questions)

    def in_session(self, session_id: str | None) -> None:
        """Note whose conversation the following lines are of."""
        if session_id in (None, self.session_id) or not _SESSION.fullmatch(str(session_id)):
            return
        self.session_id = session_id
        self._close_sums()

    def add_tokens(self, count: int) -> None:
        """Count tokens nobody has counted yet."""
        self.session_tokens = min((self.session_tokens or 0) + max(count, 0), _TOKENS_MAX)

    def add_cost(self, usd: float) -> None:
        """Count a cost nobody has counted yet."""
        if usd >= 0:
            self.session_cost = min((self.session_cost or 0.0) + usd, _COST_MAX)

    def reach_tokens(self, count: int) -> None:
        """Take over the sum of the conversation; a smaller one than before was begun anew."""
        if count < (self.session_tokens or 0):
            self._close_sums()
        self.session_tokens = min(max(count, 0), _TOKENS_MAX)

    def reach_cost(self, usd: float) -> None:
        """Take over the sum of the conversation; a smaller one than before was begun anew."""
        if usd < (self.session_cost or 0.0):
            self._close_sums()
        self.session_cost = min(max(usd, 0.0), _COST_MAX)

    def _close_sums(self) -> None:
        self.tokens_before = min(self.tokens_before + (self.session_tokens or 0), _TOKENS_MAX)
        self.cost_before = min(self.cost_before + (self.session_cost or 0.0), _COST_MAX)
        self.session_tokens = None if self.session_tokens is None else 0
        self.session_cost = None if self.session_cost is None else 0.0

    def begin_tool(self, tool_id: str | None) -> None:
        """Note that a tool is at work."""
        if tool_id is not None and tool_id not in self.tools and len(self.tools) < _TOOLS_MAX:
            self.tools.append(tool_id[:_WORD_MAX])
        self.go_on()

    def end_tool(self, tool_id: str | None) -> None:
        """Note that a tool is done, and with it the question whether it may be used."""
        short = None if tool_id is None else tool_id[:_WORD_MAX]
        if short in self.tools:
            self.tools.remove(short)
        self.questions = [each for each in self.questions if each.tool_use_id != tool_id]
        self.go_on()

    def ask(self, question: Question) -> None:
        """Note what the agent waits for; of too many the oldest go.

        What was asked under an id stays: an answer must be to what was seen under it.
        """
        if len(question.input) > _INPUT_MAX or len(question.id) > _WORD_MAX:
            return
        if all(each.id != question.id for each in self.questions):
            self.questions = [*self.questions, question][-_QUESTIONS_MAX:]
        self.go_on()

    def answered(self, question_id: str | None) -> None:
        """Note that a question is none any more."""
        if any(each.id == question_id for each in self.questions):
            self.questions = [each for each in self.questions if each.id != question_id]
            self.go_on()

    def go_on(self) -> None:
        """The agent is busy: with a question, with a tool, or with thinking."""
        busy: Activity = "working" if self.tools else "thinking"
        self.activity = "waiting" if self.questions else busy

    def begin_turn(self) -> None:
        """Work begins whose result is still to come."""
        self.has_final = True
        self.verdict = None
        self.go_on()

    def end_turn(self, verdict: Verdict) -> None:
        """A final event has come."""
        self.has_final = True
        self.verdict = verdict
        self.tools.clear()
        self.questions.clear()
        self.activity = "idle"
