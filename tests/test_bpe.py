"""Byte-pair encoding on arrays against the textbook, written out here the slow way."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_words import words_of

from llmlite.tokenizer import merge
from llmlite.tokenizer.learn import ID_OF_BYTE, Pair, learn_merges
from llmlite.tokenizer.merge import Merger, merge_word

A, B, C = ID_OF_BYTE[ord("a")], ID_OF_BYTE[ord("b")], ID_OF_BYTE[ord("c")]


def ids_of(word: bytes) -> list[int]:
    return list(word.translate(ID_OF_BYTE))


def merged(ids: list[int], pair: Pair, token: int) -> list[int]:
    """`ids` with all places of `pair` made `token`, from the left."""
    out, i = [], 0
    while i < len(ids):
        here = tuple(ids[i : i + 2]) == pair
        out.append(token if here else ids[i])
        i += 2 if here else 1
    return out


def textbook_learning(counts: dict[bytes, int], n: int = 10**6) -> list[Pair]:
    """Sennrich et al., 2016: count all pairs, merge the most frequent one, begin again."""
    split, merges = [ids_of(word) for word in counts], []
    while len(merges) < n:
        pairs: dict[Pair, int] = {}
        for ids, count in zip(split, counts.values(), strict=True):
            for pair in pairwise(ids):
                pairs[pair] = pairs.get(pair, 0) + count
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None:
            break
        split = [merged(ids, best, 256 + len(merges)) for ids in split]
        merges.append(best)
    return merges


def textbook_merging(ids: list[int], rank: dict[Pair, int]) -> list[int]:
    """The earliest learnt pair of all is merged in all its places, as long as there is one."""
    while found := [rank[pair] for pair in pairwise(ids) if pair in rank]:
        pair = next(pair for pair in pairwise(ids) if rank.get(pair) == min(found))
        ids = merged(ids, pair, 256 + min(found))
    return ids


def learn(counts: dict[bytes, int], n: int = 10**6, **options) -> list[Pair]:
    return learn_merges(words_of([*counts]), np.array([*counts.values()], np.int64), n, **options)


@pytest.mark.parametrize(
    ("counts", "merges"),
    [
        # ab 8, bc 4, ca 1. After ab: ab+c 3, b+c and c+a 1. After abc: b before c. Then bc+a 1.
        ({b"ab": 5, b"abc": 3, b"bca": 1}, [(A, B), (256, C), (B, C), (258, A)]),
        # a+a 4 times; aa aa a: (aa, aa) and (aa, a) once each, a < aa; aa aaa
        ({b"aaaaa": 1}, [(A, A), (256, A), (256, 257)]),
        # ties fall to the smaller left, then to the smaller right id
        ({b"cb": 2, b"ca": 2, b"bc": 2}, [(B, C), (C, A), (C, B)]),
        # a+b and a+a 3 × 2⁴⁰, b+c one more, which neither 32 bits nor a float32 can tell
        (
            {b"ab": 2**40, b"bc": 2**40 + 1, b"abc": 2**41, b"aaaa": 2**40},
            [(B, C), (A, A), (A, 256), (A, B), (257, 257)],
        ),
        ({b"a": 7, b"b": 7}, []),
    ],
)
def test_learning_on_examples_worked_out_by_hand(counts, merges):
    assert learn(counts) == textbook_learning(counts) == merges


runs = st.builds(
    lambda part, n: part * n, st.sampled_from([b"a", b"b", b"ab", b"aab"]), st.integers(1, 9)
)
words_of_runs = st.lists(runs, min_size=1, max_size=4).map(b"".join)
mixed_words = st.text(alphabet="abc", min_size=1, max_size=14).map(str.encode)


@settings(deadline=None, max_examples=250)
@given(
    st.dictionaries(mixed_words, st.integers(1, 4), max_size=25)
    | st.dictionaries(words_of_runs, st.integers(1, 4), max_size=6),
    st.integers(0, 12),
)
def test_merges_are_those_of_the_textbook_to_the_last_or_to_the_number_asked_for(counts, n):
    steps = []
    merges = learn(counts, advance=steps.append)
    assert merges == textbook_learning(counts)
    assert learn(counts, n) == merges[:n]
    assert sum(steps) == len(merges)
    assert all(steps)


@st.composite
def any_merges(draw) -> list[Pair]:
    """Merges that need not come from any text: of two tokens that are there, each pair once."""
    tokens, merges = [A, B, C], []
    for _ in range(draw(st.integers(0, 12))):
        pair = draw(st.tuples(st.sampled_from(tokens), st.sampled_from(tokens)))
        if pair not in merges:
            tokens.append(256 + len(merges))
            merges.append(pair)
    return merges


def merge_words(merges: list[Pair], words: list[bytes]) -> list[list[int]]:
    """All in step, after a check that it is as one by one."""
    merger = Merger(merges)
    ids, sizes = merger.merge_words(words_of(words))
    together = [part.tolist() for part in np.split(ids, sizes.cumsum())[:-1]]
    assert together == [merge_word(ids_of(word), merger.rank) for word in words]
    return together


@settings(deadline=None, max_examples=200)
@given(any_merges(), st.lists(words_of_runs | mixed_words, max_size=12))
def test_words_are_merged_as_in_the_textbook(merges, words):
    rank = {pair: i for i, pair in enumerate(merges)}
    assert merge_words(merges, words) == [textbook_merging(ids_of(word), rank) for word in words]


@pytest.mark.parametrize("long", [128, 20])
def test_words_of_all_lengths_are_merged_alike(monkeypatch, long):
    monkeypatch.setattr(merge, "LONG", long)
    rng = random.Random(0)
    words = [bytes(rng.choices(b"aab", k=length)) for length in range(1, 201)]
    words += [b"a" * length for length in (2, 127, 128, 129, 200)]
    words += [bytes(rng.randrange(256) for _ in range(150)), bytes(range(256))]
    rng.shuffle(words)
    merges = learn(dict.fromkeys(words[:150], 1), 300)
    assert len(merges) == 300
    assert sum(map(len, merge_words(merges, words))) < sum(map(len, words)) / 2
    assert merge_words([], [b"ab", b"c" * 150]) == [[A, B], [C] * 150]
