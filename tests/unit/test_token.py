"""Tokens and timeline histories: what may be told from them alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walcast.model import ConfigError, Lsn, OperatorError, TimelineHistory, Token, TokenInvalid
from walcast.model.secret import Secret
from walcast.postgres.standing import page_start

KEY = "a key that is long enough"
tokens = st.builds(
    Token,
    st.integers(0, (1 << 63) - 1),
    st.integers(1, (1 << 32) - 1),
    st.integers(0, (1 << 64) - 1).map(Lsn),
)


@given(tokens)
def test_a_token_is_read_back_as_it_was_written(token: Token) -> None:
    assert Token.parse(str(token)) == token
    assert Token.verified(token.signed(KEY), KEY) == token
    assert len(str(token)) <= 45


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1-0-0/0",
        "-1-1-0/0",
        "1-1-0",
        "1_0-1-0/0",
        "1-١-0/0",
        "1-4294967296-0/0",
        "1-1-0/0 x",
        "1" * 9999,
    ],
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(TokenInvalid, match="not a token") as caught:
        Token.parse(text)
    assert len(str(caught.value)) < 100
    with pytest.raises(TokenInvalid):
        Token.verified(text, KEY)


@given(tokens, st.integers(0, 200), st.characters(max_codepoint=1000))
def test_a_signed_token_cannot_be_changed(token: Token, place: int, character: str) -> None:
    text = token.signed(KEY)
    changed = text[: place % len(text)] + character + text[place % len(text) + 1 :]
    if changed.strip() != text:
        with pytest.raises(TokenInvalid):
            Token.verified(changed, KEY)


def test_keys_are_changed_without_losing_tokens() -> None:
    token = Token(7, 1, Lsn(99))
    new = Secret("another key, just as long")
    assert Token.verified(token.signed(KEY), [new, KEY]) == token
    with pytest.raises(TokenInvalid, match="signature"):
        Token.verified(token.signed(KEY), [new])
    with pytest.raises(TokenInvalid):
        Token.verified(str(token), [KEY])
    with pytest.raises(ConfigError, match="too short"):
        token.signed("short")


@given(tokens, tokens)
def test_the_join_is_the_later_of_two(one: Token, other: Token) -> None:
    other = Token(one.system_id, other.timeline, other.lsn)
    joined = one.join(other)
    assert joined == other.join(one)
    assert one <= joined
    assert other <= joined
    assert joined in (one, other)
    assert one.join(None) == one


def test_tokens_of_two_systems_have_no_order() -> None:
    with pytest.raises(OperatorError, match="two systems"):
        Token(1, 1, Lsn(1)).join(Token(2, 1, Lsn(1)))


def test_a_history_tells_what_was_lost_at_its_forks() -> None:
    text = "1\t0/3000158\tno recovery target specified\n\n2\t0/5000000\tno recovery target specified\n"
    history = TimelineHistory.parse(3, text)
    assert history.end_of(1) == Lsn.parse("0/3000158")
    assert history.holds(1, Lsn.parse("0/3000158")) is True
    assert history.holds(1, Lsn.parse("0/3000159")) is False
    assert history.holds(2, Lsn.parse("0/4000000")) is True
    assert history.holds(3, Lsn.parse("9/0")) is True
    assert history.holds(4, Lsn(0)) is False
    assert TimelineHistory(3).holds(1, Lsn(0)) is None


def test_a_position_behind_a_pages_header_is_the_pages_start() -> None:
    block, segment = 8192, 16 << 20
    assert page_start(Lsn(5 * block + 24), block, segment) == 5 * block
    assert page_start(Lsn(3 * segment + 40), block, segment) == 3 * segment
    for lsn in (5 * block, 5 * block + 32, 5 * block + 40, 3 * segment):
        assert page_start(Lsn(lsn), block, segment) == lsn
