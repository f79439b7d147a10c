"""What a person sees of the demo: the events of a replay, laid out for a terminal or a log."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from memkit.demo.conversations import ASKED_CATEGORIES, Conversation
from memkit.demo.replay import (
    RECALL_LIMIT,
    Event,
    KeptFact,
    LinesPlayed,
    QuestionAnswered,
    SessionEnded,
    SessionStarted,
    Turn,
)
from memkit.state import Recalled
from memkit.terminal import visible

_SHOWN_FACTS = 5
_SHOWN_RECALLED = 3
_PICTURED_QUESTIONS = 3
_FRESHNESS_STYLE = {"fresh": "green", "stale": "yellow", "expired": "red"}


@dataclass
class Tally:
    """What adds up over a conversation."""

    conversation: Conversation
    sessions: int = 0
    messages: int = 0
    resumed: int = 0
    turns: list[Turn] = field(default_factory=list)
    summaries: int = 0
    facts: int = 0
    superseded: int = 0
    stale: int = 0
    asked: Counter[int | str | None] = field(default_factory=Counter)
    hits: Counter[int | str | None] = field(default_factory=Counter)

    def add(self, event: Event) -> None:
        """Count an event."""
        match event:
            case SessionStarted(lines_done=done):
                self.resumed += done
            case SessionEnded(closing=closing, turns=turns, summary=summary, session=session):
                self.sessions += 1
                self.messages += len(session.lines)
                self.turns += turns
                self.summaries += summary is not None
                self.facts = closing["known"]
                self.superseded += len(closing["superseded"])
                self.stale = len(closing["stale"])
            case QuestionAnswered(question=question, hit=hit):
                self.asked[question.category] += 1
                self.hits[question.category] += hit

    @property
    def full(self) -> int:
        """Tokens of all turns, had the full history been sent."""
        return sum(turn["full"] for turn in self.turns)

    @property
    def sent(self) -> int:
        """Tokens of all turns as sent."""
        return sum(turn["sent"] for turn in self.turns)


class Screen:
    """Draws a replay; bars only where there is a terminal.

    Args:
        console: Where to draw.
        picture: A recording console that gets an excerpt of a story, to be saved as a picture.
    """

    def __init__(self, console: Console | None = None, picture: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.picture = picture

    def say(self, text: str) -> None:
        """Print one line."""
        self.console.print(_text(text))

    def _draw(self, *parts: RenderableType, in_picture: bool = True) -> None:
        self.console.print(*parts, sep="")
        if self.picture is not None and in_picture:
            self.picture.print(*parts, sep="")

    # -- a customer: every session in full -----------------------------------------------------

    def show_story(self, conversation: Conversation, events: Iterable[Event]) -> Tally:
        """Draw session by session, then question by question, then the totals."""
        tally = Tally(conversation)
        lines = sum(len(session.lines) for session in conversation.sessions)
        self._draw(_text(conversation.title, style="bold"))
        known_stale: set[str] = set()
        questions = 0
        with self._bar("replaying", lines + len(conversation.questions)) as advance:
            for event in events:
                tally.add(event)
                match event:
                    case LinesPlayed(lines=count):
                        advance(count)
                    case SessionEnded():
                        # The picture shows one session: one in which something changed.
                        changed = bool(event.closing["superseded"])
                        self._draw(*_session(event, known_stale), in_picture=changed)
                        known_stale.update(fact["text"] for fact in event.closing["stale"])
                    case QuestionAnswered():
                        if not questions:
                            self._draw(_rule("A new thread: what is remembered?"))
                        questions += 1
                        advance(1)
                        self._draw(*_answer(event), in_picture=questions <= _PICTURED_QUESTIONS)
        self._draw(_rule("All together"))
        self._draw(_totals(tally))
        return tally

    # -- a file of conversations: one row each -------------------------------------------------

    def show_benchmark(
        self, replays: Iterable[tuple[Conversation, Iterable[Event]]], count: int
    ) -> list[Tally]:
        """Draw a row per conversation while they are replayed, then how often recall was right."""
        tallies: list[Tally] = []
        for number, (conversation, events) in enumerate(replays, 1):
            tally = Tally(conversation)
            lines = sum(len(session.lines) for session in conversation.sessions)
            what = f"{conversation.id} ({number} of {count})"
            if not self.console.is_terminal:
                self.say(
                    f"{what}: {conversation.title}, {len(conversation.sessions)} sessions, "
                    f"{lines} messages, {len(conversation.questions)} questions"
                )
            with self._bar(what, lines + len(conversation.questions)) as advance:
                for event in events:
                    tally.add(event)
                    if isinstance(event, LinesPlayed):
                        advance(event.lines)
                    elif isinstance(event, QuestionAnswered):
                        advance(1)
            tallies.append(tally)
            if self.console.is_terminal:
                self.say(f"{what}: {tally.messages} messages, {_share(tally)} of evidence recalled")
        self.console.print(_rule("Conversations"))
        self.console.print(_rows(tallies))
        self.console.print(_rule("Evidence among the recalled"))
        self.console.print(_hits(tallies))
        left_out = sum(tally.conversation.left_out for tally in tallies)
        bad = sum(tally.conversation.bad_evidence for tally in tallies)
        self.say(
            f"A hit: any line that holds evidence is cited by one of the {RECALL_LIMIT} recalled "
            "items (facts and turns). Asked: every question of categories 1, 2 and 4 with evidence "
            f"in its conversation; left out for want of it: {left_out}. Evidence entries that name "
            f"no line: {bad}."
        )
        return tallies

    @contextmanager
    def _bar(self, what: str, total: int) -> Iterator[Any]:
        """Yield a function that moves the bar on; it does nothing where there is no terminal."""
        if not self.console.is_terminal:
            yield lambda _count: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task: TaskID = progress.add_task(escape(visible(what)), total=total)
            yield lambda count: progress.advance(task, count)


def _text(text: str, style: str = "", **more: Any) -> Text:
    """Return text from anywhere, which steers no terminal."""
    return Text(visible(text, lines=True), style=style, **more)


def _rule(title: str) -> Rule:
    return Rule(_text(title, style="bold cyan"), align="left", style="cyan", characters="─")


def _day(text: str | None) -> str:
    return (text or "unknown")[:10]


def _grid() -> Table:
    """Return a borderless table: a label, and something that takes the rest of the width."""
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(width=12, no_wrap=True, style="bold")
    grid.add_column(ratio=1)
    return grid


def _session(event: SessionEnded, known_stale: set[str]) -> Sequence[RenderableType]:
    day = datetime.fromisoformat(event.session.started_at).strftime("%d %B %Y")
    title = f"Session {event.number} · {day} · {len(event.session.lines)} messages"
    grid = _grid()
    grid.add_row("tokens/turn", _tokens(event.turns))
    if event.summary is not None:
        head = f"{event.summary['tokens']} tokens for the first {event.covered} messages"
        grid.add_row("summary", Group(Text(head), *_quoted_lines(str(event.summary["text"]))))
    closing = event.closing
    grid.add_row("facts kept", _facts(closing["kept"], by_freshness=False))
    if closing["superseded"]:
        grid.add_row("superseded", _facts(closing["superseded"], style="strike dim"))
    if closing["stale"]:
        new = [fact for fact in closing["stale"] if fact["text"] not in known_stale]
        count = f"{len(closing['stale'])} of {closing['known']} facts, {len(new)} since last time"
        parts = [Text(count), _facts(new)] if new else [Text(count)]
        grid.add_row("stale now", Group(*parts))
    return [_rule(title), Padding(grid, (0, 0, 1, 1))]


def _tokens(turns: Sequence[Turn]) -> Text:
    def figures(key: str) -> str:
        values = [turn[key] for turn in turns]  # type: ignore[literal-required]
        return f"mean {round(sum(values) / len(values)):,}, max {max(values):,}"

    return Text.assemble(
        "full history ", (figures("full"), "red"), " → sent ", (figures("sent"), "green")
    )


def _quoted_lines(text: str) -> list[Text]:
    lines = [line for line in text.splitlines() if line.strip()]
    shown = [_one_line(line, "dim italic") for line in lines[:_SHOWN_RECALLED]]
    if len(lines) > len(shown):
        shown.append(Text(f"… and {len(lines) - len(shown)} more lines", style="dim"))
    return shown


def _one_line(text: str, style: str = "") -> Text:
    return _text(" ".join(text.split()), style=style, no_wrap=True, overflow="ellipsis")


def _facts(
    facts: Sequence[KeptFact], *, style: str = "", by_freshness: bool = True
) -> RenderableType:
    if not facts:
        return Text("none", style="dim")
    # What has a name (address, job, ...) first: plain statements are many.
    ranked = sorted(facts, key=lambda fact: fact["kind"] == "statement")
    table = Table.grid(padding=(0, 1), expand=True)
    table.add_column(width=10, no_wrap=True)
    table.add_column(width=10, no_wrap=True, overflow="ellipsis", style="magenta")
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    for fact in ranked[:_SHOWN_FACTS]:
        colour = _FRESHNESS_STYLE.get(fact["freshness"] or "", "") if by_freshness else ""
        table.add_row(
            _text(_day(fact["last_updated"]), style=colour),
            _text(fact["kind"]),
            _one_line(fact["text"], style),
        )
    if len(facts) <= _SHOWN_FACTS:
        return table
    return Group(table, Text(f"… and {len(facts) - _SHOWN_FACTS} more", style="dim"))


def _answer(event: QuestionAnswered) -> Sequence[RenderableType]:
    mark = Text("✓ evidence recalled", "green") if event.hit else Text("✗ not recalled", "red")
    grid = _grid()
    grid.add_row("answer", _text(event.answer["text"]))
    grid.add_row("expected", Text.assemble(_text(event.question.answer), "   ", mark))
    grid.add_row("recalled", _recalled(event.answer["recalled"], set(event.question.evidence)))
    return [_text(event.question.text, style="bold"), Padding(grid, (0, 0, 1, 1))]


def _recalled(items: Sequence[Recalled], evidence: set[str]) -> RenderableType:
    if not items:
        return Text("nothing", style="dim")
    table = Table.grid(padding=(0, 1), expand=True)
    for width in (1, 5, 10, 7, 4):
        table.add_column(width=width, no_wrap=True)
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    shown = list(items[:_SHOWN_RECALLED])
    # The line that holds the answer is worth a row wherever it stands.
    shown += [i for i in items[_SHOWN_RECALLED:] if not evidence.isdisjoint(i["message_ids"])][:1]
    for item in shown:
        is_evidence = not evidence.isdisjoint(item["message_ids"])
        style = _FRESHNESS_STYLE[item["freshness"]]
        score = "" if item["score"] is None else f"{item['score']:.2f}"
        table.add_row(
            Text("✓" if is_evidence else "", style="green"),
            Text(item["source"], style="magenta"),
            _text(_day(item["last_updated"])),
            # A turn says what was said on its day: only facts age.
            Text(item["freshness"] if item["source"] == "facts" else "", style=style),
            Text(score[:4]),
            _one_line(item["text"]),
        )
    if len(items) <= len(shown):
        return table
    return Group(table, Text(f"… and {len(items) - len(shown)} more", style="dim"))


def _totals(tally: Tally) -> RenderableType:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column()
    saved = 1 - tally.sent / tally.full if tally.full else 0.0
    rows = {
        "sessions": f"{tally.sessions}, {tally.messages} messages, {len(tally.turns)} model calls",
        "tokens": f"{tally.full:,} as full history, {tally.sent:,} sent ({saved:.0%} saved)",
        "summaries": f"{tally.summaries} of {tally.sessions} sessions",
        "facts": f"{tally.facts} current ({tally.stale} stale), {tally.superseded} superseded",
        "recall": f"evidence recalled for {_share(tally)} questions",
    }
    for name, value in rows.items():
        grid.add_row(name, value)
    if tally.resumed:
        grid.add_row("resumed", f"{tally.resumed} messages were in the data directory already")
    return Padding(grid, (0, 0, 0, 1))


def _share(tally: Tally) -> str:
    return f"{tally.hits.total()} of {tally.asked.total()}"


def _rows(tallies: Sequence[Tally]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("conversation", no_wrap=True)
    for name in ("sessions", "messages", "full/turn", "sent/turn", "facts", "recalled"):
        table.add_column(name, justify="right", no_wrap=True)
    for tally in tallies:
        turns = len(tally.turns) or 1
        table.add_row(
            _text(tally.conversation.id),
            str(tally.sessions),
            str(tally.messages),
            f"{tally.full / turns:,.0f}",
            f"{tally.sent / turns:,.0f}",
            str(tally.facts),
            _percent(tally.hits.total(), tally.asked.total()),
        )
    return table


def _hits(tallies: Sequence[Tally]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("category")
    for name in ("questions", "hits", "share"):
        table.add_column(name, justify="right")
    asked: Counter[int | str | None] = sum((tally.asked for tally in tallies), Counter())
    hits: Counter[int | str | None] = sum((tally.hits for tally in tallies), Counter())
    for category, name in ASKED_CATEGORIES.items():
        table.add_row(
            f"{category} {name}",
            str(asked[category]),
            str(hits[category]),
            _percent(hits[category], asked[category]),
        )
    table.add_section()
    table.add_row(
        "all", str(asked.total()), str(hits.total()), _percent(hits.total(), asked.total())
    )
    return table


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else "-"
