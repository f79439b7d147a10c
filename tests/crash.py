"""Kills workers with SIGKILL at every point of an extraction; runs as a process of its own.

`python -m tests.crash points DSN`: the same turn over and over, killed at its first, fourth,
seventh event (a statement of SQL, an effect, a checkpoint), or at each one if MEMKIT_KILLS is set,
and then taken up again in one of the ways in which that happens. `python -m tests.crash race DSN`:
eight workers tell facts of one user.
`python -m tests.crash erase DSN`: a person is erased, by a process that dies at its first, tenth,
nineteenth event, or at each. Each job runs in a fork of a process that has no connection and no
thread. Prints JSON.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

import psycopg
from langchain_core.messages import AIMessage, BaseMessage
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import START, StateGraph

from memkit import FactExtractor, MemoryState, SemanticStore, effects
from memkit.factbook import FactBook
from memkit.privacy import erase_user
from tests.fakes import HashEmbeddings
from tests.graphs import config, said
from tests.scripted import ScriptedModel, facts_reply

WORDS = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta")
WORKERS, TURNS = 8, 6
EVERY = "MEMKIT_KILLS" in os.environ
STEP = 1 if EVERY else 3  # from one event to die at to the next


def model() -> ScriptedModel:
    """A model that answers every time in other words, all of them grounded."""
    word = WORDS[int.from_bytes(os.urandom(1)) % len(WORDS)]

    def answer(prompt: Sequence[BaseMessage]) -> AIMessage:
        if "Hamburg" not in str(prompt[1].content):
            return facts_reply()
        return facts_reply(
            {"text": f"The user lives in Hamburg, {word}.", "message_ids": [1]},
            {"text": f"The user has three cats, {word}.", "message_ids": [1]},
        )

    return ScriptedModel(answer)


def with_graph(
    dsn: str, extractor: FactExtractor, job: Callable[[Any, SemanticStore], None]
) -> None:
    with_saver(dsn, lambda graph, store, _: job(graph, store), extractor)


def with_saver(
    dsn: str,
    job: Callable[[Any, SemanticStore, PostgresSaver], None],
    extractor: FactExtractor | None = None,
) -> None:
    embed = HashEmbeddings()
    with (
        PostgresSaver.from_conn_string(dsn) as saver,
        SemanticStore.open(dsn, embed=embed, dims=embed.dims) as store,
    ):
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
        builder.add_node("remember", extractor or FactExtractor(None))
        builder.add_edge(START, "remember")
        job(builder.compile(checkpointer=saver, store=store), store, saver)


def message() -> Any:
    return said(f"I live in Hamburg with three cats: has, {', '.join(WORDS)}.", "05-01", id="m")


def kill_at(point: int) -> None:
    """Let this process die at its n-th event."""
    events = count(1)

    def event() -> None:
        if next(events) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def around(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            event()
            answer = original(*args, **kwargs)
            event()
            return answer

        setattr(owner, name, watched)

    around(effects.StoreBatch, "run")
    around(effects.AskModel, "run")
    around(PostgresSaver, "put")
    around(PostgresSaver, "put_writes")
    around(psycopg.Cursor, "execute")


def forked(job: Callable[[], None]) -> int:
    """Run a job in a fork, and return the signal that ended it; 0 if it ran to its end."""
    child = os.fork()
    if child == 0:
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - a child must not go on as its parent
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit("a worker failed")
    return 0


def points(dsn: str) -> None:
    results = []
    for point in count(1, STEP):
        place = config(f"thread {point}", f"user {point}")

        def submit(graph: Any, _: Any, place: Any = place) -> None:
            graph.invoke({"messages": [message()]}, place)

        def resume(graph: Any, _: Any, place: Any = place, way: int = point // STEP % 3) -> None:
            state = graph.get_state(place)
            if state.next and way == 0:
                graph.invoke(None, place)
            elif way == 1:
                graph.invoke({"messages": [message()]}, place)
            else:  # nobody resumes; the user writes on
                later = said("And what is new?", "05-02", id="later")
                graph.invoke({"messages": [message(), later]}, place)

        def first(point: int = point, submit: Any = submit) -> None:
            kill_at(point)
            with_graph(dsn, FactExtractor(model()), submit)

        killed = forked(first)

        def second(resume: Any = resume) -> None:
            with_graph(dsn, FactExtractor(model()), resume)

        forked(second)
        with SemanticStore.open(dsn, search_mode="text") as store:
            book = FactBook(store, ("users", f"user {point}", "facts"))
            results.append({"killed": killed, "facts": sorted(f.text for f in book.all())})
        if not killed:
            break
    print(json.dumps(results))  # noqa: T201 - the answer


def race(dsn: str) -> None:
    def worker(n: int) -> None:
        def tell(graph: Any, _: Any) -> None:
            for turn in range(TURNS):
                text = (
                    f"I moved to {n}{turn} Harbour Road. I love tea number {n}{turn} a lot. "
                    "I am allergic to nuts."
                )
                graph.invoke({"messages": [said(text, "05-01")]}, config(f"thread {n}"))

        with_graph(dsn, FactExtractor(None), tell)

    children = []
    for n in range(WORKERS):
        child = os.fork()
        if child == 0:
            try:
                worker(n)
            except BaseException as error:  # noqa: BLE001 - as above
                sys.stderr.write(f"{type(error).__name__}: {error}\n")
                os._exit(1)
            os._exit(0)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    print(json.dumps(codes))  # noqa: T201 - the answer


ERASED, KEPT = "ann@example.com", "bob@example.com"


def erase(dsn: str) -> None:
    results = []
    for point in count(1, 1 if EVERY else 9):

        def talk(graph: Any, _: Any) -> None:
            for user in (ERASED, KEPT):
                for n in range(2):
                    text = f"I live at {n + 1} Linden Street in Kiel, {user[:3]}."
                    message = said(text, "05-01", id="m")
                    graph.invoke({"messages": [message]}, config(f"{user} {n}", user))

        def erase_it(_: Any, store: Any, saver: Any) -> None:
            erase_user(store, saver, ERASED)

        def look(graph: Any, store: Any, saver: Any) -> None:
            report = erase_user(store, saver, ERASED)
            if not report.is_complete:
                raise AssertionError(str(report))
            for n in range(2):
                values = graph.get_state(config(f"{KEPT} {n}", KEPT)).values
                if len(values["messages"]) != 1:
                    raise AssertionError(values)
                graph.invoke(None, config(f"{KEPT} {n}", KEPT))
            if not store.search(("users", "bob@example%2Ecom", "facts")):
                raise AssertionError("the facts of another are gone")

        forked(partial(with_graph, dsn, FactExtractor(None), talk))

        def first(point: int = point, erase_it: Any = erase_it) -> None:
            kill_at(point)
            with_saver(dsn, erase_it)

        killed = forked(first)
        forked(partial(with_saver, dsn, look))
        results.append(killed)
        if not killed:
            break
    print(json.dumps(results))  # noqa: T201 - the answer


if __name__ == "__main__":
    command: Callable[..., None] = {"points": points, "race": race, "erase": erase}[sys.argv[1]]
    command(*sys.argv[2:])
