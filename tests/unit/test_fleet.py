"""What a router concludes from what servers say."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from walcast.cluster.routing.choose import Held, Want, for_read
from walcast.cluster.routing.fleet import Fleet, Role
from walcast.model import Lsn, OperatorError, SplitBrain, TimelineHistory, Token, WriteLost
from walcast.postgres.standing import Standing, waiting


def primary(lsn: int, timeline: int = 1, system: int = 7) -> Standing:
    return Standing(system, timeline, Lsn(lsn), recovering=False)


def standby(lsn: int, timeline: int = 1, system: int = 7) -> Standing:
    return Standing(system, timeline, Lsn(lsn), recovering=True)


class Told:
    """A fleet of three and what it is told, one question after another."""

    def __init__(self) -> None:
        self.fleet = Fleet({"a": "host=a", "b": "host=b", "c": "host=c"})
        self.a, self.b, self.c = self.fleet.nodes
        self.lives = dict.fromkeys(self.fleet.nodes, -1)

    def connects(self, node: object, standing: Standing) -> int:
        (found,) = (known for known in self.fleet.nodes if known is node)
        joined = self.fleet.join(found, 180000)
        self.lives[found] = self.fleet.note(found, standing, time.monotonic(), joined=joined)
        return self.lives[found]

    def says(self, node: object, standing: Standing) -> None:
        (found,) = (known for known in self.fleet.nodes if known is node)
        self.fleet.note(found, standing, time.monotonic(), life=self.lives[found])


@pytest.fixture
def told() -> Told:
    found = Told()
    found.connects(found.a, primary(1000))
    found.connects(found.b, standby(900))
    found.connects(found.c, standby(800))
    return found


def token(lsn: int, timeline: int = 1) -> Token:
    return Token(7, timeline, Lsn(lsn))


def test_knowledge_only_grows_while_a_server_lives(told: Told) -> None:
    assert told.fleet.has(told.b.mark, token(900))
    told.says(told.b, standby(850))  # an answer that was overtaken
    assert told.fleet.has(told.b.mark, token(900))
    assert not told.fleet.has(told.b.mark, token(901))


def test_a_standby_that_came_back_with_less_begins_anew(told: Told) -> None:
    before = told.lives[told.b]
    assert told.connects(told.b, standby(850)) != before
    assert not told.fleet.has(told.b.mark, token(900))
    told.fleet.note(told.b, standby(990), time.monotonic(), life=before)
    assert told.b.mark.lsn == 850, "an answer of its former life counts for nothing"


def test_a_server_that_was_started_anew_is_another_one(told: Told) -> None:
    before = told.lives[told.b]
    assert told.connects(told.b, Standing(7, 1, Lsn(2000), True, started=1.0)) != before
    assert not told.fleet.has(told.c.mark, token(2000))
    assert told.fleet.has(told.b.mark, token(2000))


def test_a_role_that_sees_no_timeline_takes_nothing_back(told: Told) -> None:
    told.connects(told.b, standby(900, timeline=2))
    life = told.lives[told.b]
    assert told.connects(told.b, standby(950, timeline=1)) == life
    assert told.fleet.has(told.b.mark, token(950, timeline=2))


def test_an_answer_to_a_question_from_before_a_new_connection_does_not_count(told: Told) -> None:
    asked = time.monotonic()
    told.connects(told.b, standby(900))
    told.fleet.note(told.b, standby(990), asked, life=told.lives[told.b])
    assert told.b.mark.lsn == 900


def test_a_new_connection_that_was_overtaken_is_not_taken_for_a_restart(told: Told) -> None:
    joined = told.fleet.join(told.b, 180000)
    told.says(told.b, standby(950))
    life = told.fleet.note(told.b, standby(900), time.monotonic(), joined=joined)
    assert life == told.lives[told.b]
    assert told.b.mark.lsn == 950


def test_a_server_that_can_wait_is_asked_to_and_believed_by_where_it_then_stands(told: Told) -> None:
    """WAIT FOR LSN, as PostgreSQL 19 documents it: no server of that version has been at hand."""
    for node in (told.b, told.c):
        node.version = 190000
    until = time.monotonic() + 60
    choice = for_read(told.fleet, Want(token(950), until, until))
    step = choice.send(None)
    assert step.do == "take"
    assert step.node is not None
    held = Held(step.node, None, told.lives[step.node])
    step = choice.send(held)
    assert (step.do, step.token) == ("wait", token(950))
    assert 0 < step.seconds <= 60
    told.says(held.node, standby(960))
    with pytest.raises(StopIteration) as found:
        choice.send(held)
    assert found.value.value is held
    command = waiting(Lsn(950), 0.25).as_string(None)
    assert command == "wait for lsn '0/3B6' with (timeout '250ms', no_throw)"


def test_an_old_primary_is_fenced_when_a_later_timeline_has_been_seen(told: Told) -> None:
    told.connects(told.b, primary(950, timeline=2))
    assert told.fleet.role(told.a) is Role.FENCED
    assert told.fleet.primary() is told.b
    assert told.fleet.replicas() == [told.c]


def test_a_standby_of_the_lost_branch_is_not_read_from(told: Told) -> None:
    told.connects(told.b, primary(1200, timeline=2))
    told.fleet.learn(TimelineHistory(2, ((1, Lsn(850)),)))
    assert told.fleet.role(told.c) is Role.REPLICA  # behind the fork: it can still follow
    told.says(told.c, standby(990))
    assert told.fleet.role(told.c) is Role.DIVERGED
    told.connects(told.c, standby(900, timeline=2))
    assert told.fleet.role(told.c) is Role.REPLICA


def test_a_token_of_an_earlier_timeline_holds_up_to_the_fork(told: Told) -> None:
    told.connects(told.b, primary(1200, timeline=2))
    told.connects(told.c, standby(1100, timeline=2))
    assert not told.fleet.has(told.c.mark, token(840)), "without the history nothing is certain"
    told.fleet.learn(TimelineHistory(2, ((1, Lsn(850)),)))
    assert told.fleet.has(told.c.mark, token(840))
    assert told.fleet.has(told.c.mark, token(1100, timeline=2))
    assert not told.fleet.has(told.a.mark, token(860, timeline=2)), "the same LSN of another timeline"
    with pytest.raises(WriteLost, match="lost"):
        told.fleet.check(token(851))


def test_two_primaries_on_one_timeline_stop_all_writes(told: Told) -> None:
    told.connects(told.b, primary(950, timeline=2))
    told.connects(told.c, primary(940, timeline=2))
    with pytest.raises(SplitBrain, match="two servers take writes"):
        told.fleet.primary()


def test_a_server_of_another_cluster_is_not_used(told: Told) -> None:
    told.connects(told.b, standby(5000, system=8))
    assert told.fleet.replicas() == [told.c]
    with pytest.raises(OperatorError, match="another cluster"):
        told.fleet.refuse_strangers()
    with pytest.raises(OperatorError, match="another server"):
        told.fleet.check(Token(8, 1, Lsn(1)))


def test_lag_is_the_age_of_the_last_look_that_a_replica_has_caught_up_with(told: Told) -> None:
    assert told.fleet.lag(told.b, time.monotonic()) is None
    looked = time.monotonic()
    told.says(told.a, primary(1000))
    told.says(told.b, standby(1000))
    told.says(told.a, primary(2000))
    now = time.monotonic()
    lag = told.fleet.lag(told.b, now)
    assert lag is not None
    assert lag <= now - looked
    told.says(told.a, primary(2000))
    told.says(told.b, standby(1999))
    later = told.fleet.lag(told.b, now + 5)
    assert later is not None
    assert later >= 5


def test_lag_counts_what_is_on_the_primarys_disk(told: Told) -> None:
    told.says(told.a, replace(primary(3000), flushed=Lsn(2000)))
    told.says(told.b, standby(2000))
    lag = told.fleet.lag(told.b, time.monotonic())
    assert lag is not None
    assert lag < 5
    found = told.fleet.sample_since(0.0, durable=True)
    assert found is not None
    assert found.lsn <= 2000


def test_what_was_committed_by_a_moment_is_before_the_first_look_after_it(told: Told) -> None:
    moment = time.monotonic()
    assert told.fleet.sample_since(moment) is None
    told.says(told.a, primary(1500))
    told.says(told.a, primary(1600))
    found = told.fleet.sample_since(moment)
    assert found is not None
    assert found.lsn == 1500
