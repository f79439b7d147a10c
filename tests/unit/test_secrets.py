"""What is taken for a secret, what is not, and that none reaches store or embedder."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore

from memkit import MemoryState, TurnRecorder
from memkit.errors import ConfigError
from memkit.factbook import FactBook
from memkit.facts import Fact
from memkit.secrets import find_secrets, redacted
from tests.fakes import HashEmbeddings
from tests.graphs import config, memory_graph, said
from tests.scripted import ScriptedModel, facts_reply

# Made up, in the forms that the services use.
GITHUB = "ghp_" + "a1B2" * 9
OPENAI = "sk-proj-" + "abc123DEF456" * 3
CARD = "4111 1111 1111 1111"  # the networks' number for tests


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (f"My card number is {CARD}.", "My card number is [card number]."),
        ("4111-1111-1111-1111", "[card number]"),
        ("Card 5500005555555559, expires 12/27", "Card [card number], expires 12/27"),
        ("Amex 378282246310005.", "Amex [card number]."),
        ("My password is hunter22.", "My password is [password]."),
        ("Remember that the admin password is Tr0ub4dor&3.", "the admin password is [password]."),
        ("The PIN for the door is 4711", "The PIN for the door is [password]"),
        ("my password is: swordfish", "my password is: [password]"),
        ('The password is "opensesame"', 'The password is "[password]"'),
        ("password=letmein", "password=[password]"),
        ("The one-time code is 839201", "The one-time code is [password]"),
        ("my CVV is 123", "my CVV is [password]"),
        (f"export KEY {GITHUB} please", "export KEY [key] please"),
        (f"I use {OPENAI} for that", "I use [key] for that"),
        ("AKIAIOSFODNN7EXAMPLE", "[key]"),
        (f"{GITHUB}, again {GITHUB}", "[key], again [key]"),
        ("Authorization: Bearer abcdef0123456789abcdef", "Authorization: [key]"),
        ("postgresql://ann:s3cret@host/db", "postgresql://ann:[password]@host/db"),
        ("redis://:letmein@example.com", "redis://:[password]@example.com"),
        ('{"password": "hunter2", "user": "ann"}', '{"password": "[password]", "user": "ann"}'),
        ("Server=x;Password=Passw0rd;", "Server=x;Password=[password];"),
        ("card-4111-1111-1111-1111", "card-[card number]"),
        ("Visa/4111.1111.1111.1111", "Visa/[card number]"),
        ("4111\u00a01111\u00a01111\u00a01111", "[card number]"),
        ("4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1", "[card number]"),
        (f"{CARD} 123", "[card number] 123"),
        (f"Order 12 {CARD} 12/27", "Order 12 [card number] 12/27"),
        (f"{CARD}-{CARD}", "[card number]-[card number]"),
        ("my password, as I told you, is hunter2", "my password, as I told you, is [password]"),
        ("My password (it's new) is swordfish!", "My password (it's new) is [password]!"),
        ("the PIN is, as always, 4711", "the PIN is, as always, [password]"),
        ("pass: hunter2", "pass: [password]"),
        ("user=ann pass=Tr0ub4dor", "user=ann pass=[password]"),
        ("pwd=hunter2", "pwd=[password]"),
        ("the PIN of my card is 4321", "the PIN of my card is [password]"),
        ("my alarm code's 99-21-4", "my alarm code's [password]"),
        ("The secret word is “open sesame”.", "The secret word is “[password]”."),
        ("our safe word is banana42", "our safe word is [password]"),
        ("４１１１ １１１１ １１１１ １１１１", "[card number]"),
        ("4111\u200b1111\u200b1111\u200b1111", "[card number]"),
        ("4111 - 1111 – 1111 - 1111", "[card number]"),
        ("4111/1111/1111/1111", "[card number]"),
        ("4711 is my PIN.", "[password] is my PIN."),
        ("Use 4711 as the door code", "Use [password] as the door code"),
        ("The password's hunter2", "The password's [password]"),
        ("My password is swordfish.", "My password is [password]."),
        ("my password is swordfish and hers is not", "is [password] and hers is not"),
        ("My password is correct-horse-battery", "My password is [password]"),
        ('The Wi-Fi password is "my dog has fleas"', 'is "[password]"'),
        ("My seed phrase is apple pear plum fig.", "My seed phrase is [password]."),
        (f"{CARD}{GITHUB}", "[card number][key]"),
        ("Password is my password is hunter2", "my password is [password]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nx1\n-----END RSA PRIVATE KEY----- ok", "[key] ok"),
    ],
)
def test_secrets_are_found(text: str, kept: str) -> None:
    assert redacted(text).endswith(kept)
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "I live at 14 Linden Street, 04103 Leipzig.",
        "My phone number is +49 341 1234567.",
        "Order 2026-11-23-000123456789 is late, tracking number 1234567890123456.",
        "My password is wrong.",
        "I forgot my password yesterday, send me the password reset link.",
        "my pin at 12:30 on the map, and the password manager 1Password",
        "The password is stored in the safe, and my password was changed in 2023.",
        "My PIN has four digits; the passphrase is too long to remember.",
        "sk-my-favourite-places-in-leipzig-2026",
        "skateboarding-tournament-2026-results",
        "http://localhost:8080/a@b, mail me at ann@example.com:now",
        "The scores were 4 1 1 1 and 41 11 11 11 11 11 11 11.",
        "My IBAN is DE71 3900 5579 4410 5226 16.",  # some of its digits make a card number
        "https://example.com/4111111111111111/x",
        "550e8400-e29b-41d4-a716-446655440000",
        "commit 922a0dd5f1a2b3c4d5e6f7a8b9c0d1e2f3a4b5c6",
        "I pin recipes 24 hours a day in a combination of 3 colours.",
        "1234 5678 9012 3456",  # fails the check
        "0000 0000 0000 0000",
        "x4111 1111 1111 1111",
        "",
        "I pass the time: reading",
        "the pass: a mountain road, and a long one",
        "a boarding pass = fun",
        "my passport expires in May",
        "pin: I collect pins",
        "the magic word is please",
        "call me at 0171 2345678 9012",
    ],
)
def test_what_only_looks_like_one_is_left(text: str) -> None:
    assert find_secrets(text) == []
    assert redacted(text) == text


PIECES = [CARD, "My password is", "hunter22", OPENAI, GITHUB, " ", ", ", "[key]", "is", "PIN: "]
PIECES += ["4711", "\n", "://a:", "@", '"']


@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=12).map("".join))
def test_redacting_takes_every_secret_and_nothing_twice(text: str) -> None:
    found = find_secrets(text)
    places = [place for secret in found for place in (secret.start, secret.end)]
    assert places == sorted(places)
    assert all(0 <= s.start < s.end <= len(text) for s in found)
    kept = redacted(text)
    assert (kept == text) is (not found)
    assert find_secrets(kept) == []


@given(st.text(max_size=40), st.sampled_from([CARD, GITHUB]), st.text(max_size=40))
def test_a_secret_between_spaces_is_found_in_any_text(left: str, secret: str, right: str) -> None:
    assert secret not in redacted(f"{left} {secret} {right}")


REPEATED = ["a", "1 ", "4 ", "4111 ", "sk-", "//", "://a:", "eyJa.", "AKC", "1x is my "]
REPEATED += ["password ", "password:", "password is ", "pin for x y z ", "passphrase is a "]


@pytest.mark.parametrize("piece", REPEATED)
def test_long_texts_take_linear_time(piece: str) -> None:
    find_secrets("warm 1")
    start = time.perf_counter()
    find_secrets("1 " + piece * (20_000 // len(piece)))
    assert time.perf_counter() - start < 3


def test_recorder_counts_what_it_redacts_and_can_be_told_not_to() -> None:
    def recorded(**kwargs: Any) -> tuple[list[str], list[Any]]:
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
        builder.add_node("record", TurnRecorder(**kwargs))
        builder.add_edge(START, "record")
        store = InMemoryStore()
        graph = builder.compile(store=store)
        messages = [said(f"My card is {CARD}.", "05-01"), said("I like figs.", "05-01")]
        events = list(graph.stream({"messages": messages}, config("t"), stream_mode="custom"))
        return sorted(item.value["text"] for item in store.search(("users",))), events

    texts, events = recorded()
    assert texts == ["user: I like figs.", "user: My card is [card number]."]
    assert [(e["recorded"], e["redacted"]) for e in events] == [(2, 1)]
    texts, events = recorded(redact=False)
    assert texts == ["user: I like figs.", f"user: My card is {CARD}."]
    assert [(e["recorded"], e["redacted"]) for e in events] == [(2, 0)]
    with pytest.raises(ConfigError, match="redact"):
        TurnRecorder(redact="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("with_model", [False, True])
def test_no_secret_reaches_store_or_embedder(with_model: bool) -> None:
    embed = HashEmbeddings()
    store = InMemoryStore(index={"embed": embed, "dims": embed.dims, "fields": ["text"]})
    told = {"text": f"The user pays with {CARD}.", "message_ids": [1]}
    model = ScriptedModel(lambda _: facts_reply(told)) if with_model else None

    def respond(_: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(f"Noted: {CARD}, and {OPENAI}.")]}

    graph = memory_graph(model=model, respond=respond).compile(
        checkpointer=InMemorySaver(), store=store
    )
    for text in (f"I always pay with my card {CARD}.", f"Is {CARD} my card, and {OPENAI} my key?"):
        graph.invoke({"messages": [said(text, "05-01")]}, config("t"))
    seen = [*embed.query_calls, *(text for call in embed.document_calls for text in call)]
    seen += [str(item.value) for item in store.search(("users",), limit=100)]
    assert any("[card number]" in text for text in seen)
    assert not [text for text in seen if "4111" in text or OPENAI in text]


def test_a_correction_that_holds_a_secret_is_refused() -> None:
    book = FactBook(InMemoryStore(), ("users", "ann", "facts"))
    book.store.batch([book.put_of(Fact("I pay by card.", key="card"))])
    with pytest.raises(ConfigError, match="card number is not kept"):
        book.correct("card", f"I pay with {CARD}.")
    assert [fact.text for fact in book.all()] == ["I pay by card."]
