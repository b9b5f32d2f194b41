"""Searches against losses that are functions, without any network."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib8.analyze.search import (
    LOCAL,
    LOCAL_AROUND,
    Accept,
    Alone,
    Damage,
    SearchOptions,
    Step,
    Together,
    Trial,
    candidate_search,
    original_search,
)


def exactly(loss, bound):
    return loss


def answered(search, thresholds, loss, held_out_loss=None, damage=None, alone=None, said=exactly):
    """All events of a search whose losses are functions of all thresholds; and the thresholds that it ends with.

    A group alone has the loss `alone(group, thresholds)`, by default one that is the same for all thresholds. What the
    search is told of a loss is `said(loss, bound)`.
    """
    current, events, answer = dict(thresholds), [], None
    try:
        while True:
            event = search.send(answer)
            answer = None
            events.append(event)
            if isinstance(event, Accept):
                current.update(event.thresholds)
            elif isinstance(event, tuple):
                answer = [said(_loss(one, current, loss, held_out_loss, damage, alone), one.bound) for one in event]
    except StopIteration:
        return events, current


def _loss(asked, current, loss, held_out_loss, damage, alone):
    if isinstance(asked, Damage):
        return damage[asked.group] if damage else 0.0
    if isinstance(asked, Alone):
        return alone(asked.group, {**current, **asked.thresholds, asked.group: asked.threshold}) if alone else 0.0
    if isinstance(asked, Together):
        changed = asked.thresholds
    else:
        changed = {} if asked.threshold is None else {asked.group: asked.threshold}
    return (held_out_loss if asked.held_out else loss)({**current, **changed})


def trials(events):
    return [one for event in events if isinstance(event, tuple) for one in event]


def by_the_book(threshold, loss):
    """The original's search for one layer, as its description has it; every trial in order."""
    tried, best, least = [], threshold, loss(threshold)
    for factor in (1.01, 0.99):
        misses, n = 0, 1
        while misses < 3:
            candidate = threshold * factor**n
            tried.append(candidate)
            if loss(candidate) < least:
                best, least, misses = candidate, loss(candidate), 0
            else:
                misses += 1
            n += 1
    return tried, best


@given(st.floats(0.5, 2), st.integers(0, 50))
def test_original_search(optimum, waves):
    def loss(t):
        return abs(math.log(t / optimum)) + 0.01 * math.sin(waves * t)

    thresholds = {"g": 1.0, "h": 1.0}
    events, found = answered(original_search([("a", "g"), ("b", "g")], thresholds), thresholds, lambda c: loss(c["g"]))
    first, best = by_the_book(1.0, loss)
    second, best_of_both = by_the_book(best, loss)
    asked = trials(events)
    assert [t.threshold for t in asked if t.target == "a"] == [None, *first]
    assert [t.threshold for t in asked if t.target == "b"] == [None, *second]
    assert found == {"g": best_of_both, "h": 1.0}


def test_original_search_stops_where_thresholds_cannot_be_expressed():
    search = original_search([("a", "g")], {"g": 1.0}, before=5.0)
    events, found = answered(search, {"g": 1.0}, lambda current: math.inf)
    assert len(trials(events)) == 6 and found == {"g": 1.0}


def convex(optima, current):
    return 1 + sum(math.log(current[g] / t) ** 2 for g, t in optima.items())


def test_candidates_come_near_the_best_thresholds():
    optima = {"a": 3.0, "b": 0.4}
    start = {"a": 1.0, "b": 1.0}
    candidates = {"a": (1.0, 2.0, 4.0), "b": (0.25, 0.5, 1.0)}
    options = SearchOptions(held_out=False, worthwhile=0.0)
    _, found = answered(candidate_search(candidates, start, options), start, lambda c: convex(optima, c))
    assert found["a"] == pytest.approx(3.0, rel=0.06) and found["b"] == pytest.approx(0.4, rel=0.06)


def test_groups_are_gone_through_in_the_order_of_their_damage():
    start = dict.fromkeys("abc", 1.0)
    search = candidate_search(dict.fromkeys("abc", (2.0,)), start, SearchOptions(sweeps=1, held_out=False))
    events, _ = answered(search, start, lambda c: 1.0, damage={"a": 3.0, "b": 1.0, "c": 2.0})
    for kind in (Alone, Trial):
        tried = [t.group for t in trials(events) if isinstance(t, kind) and t.threshold is not None]
        assert list(dict.fromkeys(tried)) == ["b", "c", "a"]


def test_it_begins_with_the_best_method_that_the_held_out_samples_confirm():
    start = {"a": 1.0, "b": 1.0}
    methods = {"good": {"a": 3.0, "b": 0.4}, "lucky": {"a": 8.0, "b": 8.0}, "bad": {"a": 90.0, "b": 90.0}}
    fooled = lambda c: 0.0 if c["a"] == 8.0 else convex({"a": 3.0, "b": 0.4}, c)  # noqa: E731
    honest = lambda c: convex({"a": 3.0, "b": 0.4}, c)  # noqa: E731
    search = candidate_search({"a": (3.0,), "b": (0.4,)}, start, SearchOptions(sweeps=1), methods)
    events, _ = answered(search, start, fooled, honest)
    accepted = [event for event in events if isinstance(event, Accept)]
    assert accepted[0].method == "good" and accepted[0].thresholds == methods["good"]


def of_chance(random):
    """Losses of four groups, held-out and alone, too: few different ones, so that many are just as good as others."""
    known: dict = {}

    def loss(kind):
        return lambda c: known.setdefault((kind, tuple(sorted(c.items()))), random.randrange(12) / 4)

    damage = {group: random.random() for group in "abcd"}
    return {"loss": loss("tuned"), "held_out_loss": loss("held out"), "damage": damage,
            "alone": lambda group, c: loss(group)(c)}  # fmt: skip


@settings(max_examples=100)
@given(st.randoms(use_true_random=False))
def test_losses_that_have_reached_their_bound_need_not_be_known(random):
    """Any number from the bound to the loss leads to the same questions and decisions."""
    start = dict.fromkeys("abcd", 1.0)
    methods = {name: {group: random.uniform(0.3, 3) for group in start} for name in "mno"}
    candidates = {group: tuple(found[group] for found in methods.values()) for group in start}
    losses, bounds = of_chance(random), set()

    def at_least(loss, bound):
        bounds.add(bound)
        return loss if loss < bound else random.choice([bound, loss, (bound + loss) / 2])

    for make in (
        lambda: candidate_search(candidates, start, SearchOptions(worthwhile=0.0), methods),
        lambda: original_search([(group, group) for group in start], start),
    ):
        assert answered(make(), start, **losses, said=at_least) == answered(make(), start, **losses)
    assert bounds - {math.inf}


@settings(max_examples=50)
@given(st.randoms(use_true_random=False))
def test_neither_loss_ever_rises(random):
    """Losses of chance: what one kind of samples says tells nothing of the other kind."""
    start = dict.fromkeys("abcd", 1.0)
    known: dict = {}

    def loss(kind):
        return lambda c: known.setdefault((kind, tuple(sorted(c.items()))), random.random())

    before = {kind: loss(kind)(start) for kind in ("tuned", "held out")}
    methods = {"m": dict.fromkeys("abcd", 2.0)}
    search = candidate_search(dict.fromkeys(start, (0.5, 2.0, 4.0)), start, SearchOptions(), methods)
    events, found = answered(search, start, loss("tuned"), loss("held out"))
    at = dict(before)
    for event in events:
        if isinstance(event, Accept):
            assert (event.before, event.held_out_before) == (at["tuned"], at["held out"])
            assert event.after < event.before and event.held_out_after <= event.held_out_before
            at = {"tuned": event.after, "held out": event.held_out_after}
    assert {kind: loss(kind)(found) for kind in at} == at


def test_sweeps_end_when_they_do_not_pay():
    start = {"a": 1.0}
    search = candidate_search({"a": (2.0,)}, start, SearchOptions(held_out=False))
    events, _ = answered(search, start, lambda c: 1.0)
    asked = [t.threshold for t in trials(events) if isinstance(t, Trial) and t.threshold is not None]
    assert len(asked) == 5  # the candidate, and four around: one sweep
    assert [e for e in events if isinstance(e, Step)][-1].done == 1 + len(LOCAL_AROUND) + SearchOptions().sweeps


def deviation(group, optimum, current):
    return math.log(current[group] / optimum) ** 2


def test_groups_alone_are_accepted_together():
    """The losses of the whole network are too rough for a single change to be seen."""
    optima = {"a": 3.0, "b": 0.4}
    start = {"a": 1.0, "b": 1.0}

    def rough(current):
        return math.floor(convex(optima, current))

    def alone(group, current):
        return deviation(group, optima[group], current)

    search = candidate_search({"a": (2.0, 4.0), "b": (0.5,)}, start, SearchOptions(sweeps=0))
    events, found = answered(search, start, rough, rough, alone=alone)
    accepted = [event for event in events if isinstance(event, Accept)]
    assert [step.method for step in accepted] == [LOCAL] and set(accepted[0].thresholds) == {"a", "b"}
    assert found == {"a": 4.0, "b": 0.5}  # the second sweep's are finer than the losses
    other = next(one for one in trials(events) if isinstance(one, Alone) and one.group == "b")
    assert other.thresholds["a"] == 4.0  # what is found counts for the groups behind


def test_what_groups_alone_gain_is_refused_where_the_network_loses():
    start = {"a": 1.0}
    search = candidate_search({"a": (2.0,)}, start, SearchOptions(sweeps=0))
    events, found = answered(
        search, start, lambda c: c["a"], lambda c: c["a"], alone=lambda group, c: deviation(group, 2.0, c)
    )
    assert found == start and not any(isinstance(event, Accept) for event in events)
    assert any(isinstance(one, Together) and one.method == LOCAL for one in trials(events))


def test_near_candidates_are_tried_once():
    start = {"a": 1.0}
    search = candidate_search({"a": (1.001, 2.0, 2.001)}, start, SearchOptions(sweeps=1, held_out=False))
    events, _ = answered(search, start, lambda c: c["a"])
    assert [t.threshold for t in trials(events) if isinstance(t, Trial)][:2] == [None, 2.0]


def test_nothing_to_tune():
    assert answered(candidate_search({}, {}), {}, lambda c: 0.0)[1] == {}
