"""Byte-pair encoding on arrays against the textbook, written out here the slow way."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmlite.tokenizer import merge
from llmlite.tokenizer.learn import BYTE_ORDER, ID_OF_BYTE, Pair, learn_merges
from llmlite.tokenizer.merge import NEVER, Merger, merge_word
from llmlite.tokenizer.words import Words

A, B, C = ID_OF_BYTE[ord("a")], ID_OF_BYTE[ord("b")], ID_OF_BYTE[ord("c")]


def words_of(words: list[str | bytes]) -> Words:
    data = [word.encode() if isinstance(word, str) else word for word in words]
    return Words.of(b"".join(data), np.array([len(word) for word in data], np.int64))


def ids_of(word: str | bytes) -> list[int]:
    return list((word.encode() if isinstance(word, str) else word).translate(ID_OF_BYTE))


def merged(ids: list[int], pair: Pair, token: int) -> list[int]:
    """`ids` with all places of `pair` made `token`, from the left."""
    out, i = [], 0
    while i < len(ids):
        here = tuple(ids[i : i + 2]) == pair
        out.append(token if here else ids[i])
        i += 2 if here else 1
    return out


def textbook_learning(words: list[str], counts: list[int], n: int = 10**6) -> list[Pair]:
    """Sennrich et al., 2016: count all pairs, merge the most frequent one, begin again."""
    split, merges = [ids_of(word) for word in words], []
    while len(merges) < n:
        pairs: dict[Pair, int] = {}
        for ids, count in zip(split, counts, strict=True):
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


# -- learning -------------------------------------------------------------------------------------


def learn(words: list[str], counts: list[int], n: int = 10**6) -> list[Pair]:
    return learn_merges(words_of(words), np.array(counts, np.int64), n)


def test_the_byte_order_is_a_permutation():
    assert sorted(BYTE_ORDER) == list(range(256))
    assert [BYTE_ORDER[i] for i in ID_OF_BYTE] == list(range(256))


def test_learning_on_an_example_worked_out_by_hand():
    # ab 8, bc 4, ca 1. After ab: ab+c 3, b+c and c+a 1. After abc: b before c. Then bc+a 1.
    assert learn(["ab", "abc", "bca"], [5, 3, 1]) == [(A, B), (256, C), (B, C), (258, A)]


def test_a_run_counts_every_pair_and_is_merged_from_the_left():
    # aaaaa: a+a 4 times; aa aa a: (aa, aa) and (aa, a) once each, a < aa; aa aaa
    assert learn(["aaaaa"], [1]) == [(A, A), (256, A), (256, 257)]


def test_ties_fall_to_the_smaller_left_then_the_smaller_right_id():
    assert learn(["cb", "ca", "bc"], [2, 2, 2]) == [(B, C), (C, A), (C, B)]


words_and_counts = st.lists(
    st.tuples(st.text(alphabet="ab", min_size=1, max_size=14), st.integers(1, 4)), max_size=12
)
words_of_three = st.lists(
    st.tuples(st.text(alphabet="abc", min_size=1, max_size=9), st.integers(1, 3)), max_size=25
)
runs = st.lists(
    st.tuples(
        st.lists(
            st.builds(
                lambda part, n: part * n,
                st.sampled_from(["a", "b", "ab", "aab"]),
                st.integers(1, 9),
            ),
            min_size=1,
            max_size=4,
        ).map("".join),
        st.integers(1, 4),
    ),
    max_size=6,
)


@settings(deadline=None, max_examples=400)
@given(st.one_of(words_and_counts, words_of_three, runs))
def test_merges_to_the_last_are_those_of_the_textbook(pairs):
    words, counts = [word for word, _ in pairs], [count for _, count in pairs]
    assert learn(words, counts) == textbook_learning(words, counts)


@settings(deadline=None, max_examples=200)
@given(st.one_of(words_and_counts, runs), st.integers(0, 12))
def test_learning_ends_at_the_number_asked_for(pairs, n):
    words, counts = [word for word, _ in pairs], [count for _, count in pairs]
    assert learn(words, counts, n) == textbook_learning(words, counts, n)


def test_nothing_to_learn_gives_no_merges():
    assert learn([], []) == []
    assert learn(["a", "b"], [7, 7]) == []
    assert learn(["ab"], [7], n=0) == []


def test_progress_adds_up_to_the_number_of_merges():
    words = ["abcab", "bcabc", "aaaaaaa", "cabcab", "bbbb"]
    steps = []
    merges = learn_merges(words_of(words), np.array([5, 4, 3, 2, 1]), 10**6, steps.append)
    assert sum(steps) == len(merges) > 5
    assert min(steps) >= 1


def test_large_counts_do_not_overflow():
    words, counts = ["ab", "bc", "abc", "aaaa"], [2**40, 2**40 + 1, 2**41, 2**40]
    # a+b and a+a 3 × 2⁴⁰, b+c one more
    assert learn(words, counts) == textbook_learning(words, counts)
    assert learn(words, counts)[0] == (B, C)


# -- applying -------------------------------------------------------------------------------------


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


@settings(deadline=None, max_examples=200)
@given(any_merges(), st.text(alphabet="abc", max_size=25))
def test_merging_a_word_is_that_of_the_textbook(merges, word):
    rank = {pair: i for i, pair in enumerate(merges)}
    ids = ids_of(word)
    assert merge_word(ids, rank) == textbook_merging(ids, rank)
    assert ids == ids_of(word)  # as it was


def merge_words(merger: Merger, words: list[bytes]) -> list[list[int]]:
    ids, sizes = merger.merge_words(words_of(words))
    return [part.tolist() for part in np.split(ids, sizes.cumsum())[:-1]]


@settings(deadline=None, max_examples=200)
@given(any_merges(), st.lists(st.text(alphabet="abc", min_size=1, max_size=25), max_size=12))
def test_merging_many_words_is_merging_each(merges, words):
    merger = Merger(merges)
    words = [word.encode() for word in words]
    assert merge_words(merger, words) == [merge_word(ids_of(w), merger.rank) for w in words]


@pytest.mark.parametrize("long", [128, 20])
def test_words_of_all_lengths_are_merged_alike(monkeypatch, long):
    monkeypatch.setattr(merge, "LONG", long)
    rng = random.Random(0)
    words = [bytes(rng.choices(b"aab", k=length)) for length in range(1, 201)]
    words += [bytes(rng.choices(b"abcd", k=rng.randint(1, 12))) for _ in range(200)]
    words += [b"a" * length for length in (2, 127, 128, 129, 200)]
    words += [bytes(rng.randrange(256) for _ in range(150)), bytes(range(256))]
    rng.shuffle(words)
    merger = Merger(learn_merges(words_of(words[:150]), np.ones(150, np.int64), 300))
    assert len(merger.rank) == 300
    expected = [merge_word(ids_of(word), merger.rank) for word in words]
    assert merge_words(merger, words) == expected
    assert sum(len(ids) for ids in expected) < sum(len(word) for word in words) / 2


def test_no_words_and_no_merges_are_fine():
    assert merge_words(Merger([(A, B)]), []) == []
    assert merge_words(Merger([]), [b"ab", b"c" * 150]) == [[A, B], [C] * 150]


def test_ranks_are_those_of_a_dict():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 60_000, (20_000, 2))
    pairs[:500] %= 256  # of bytes
    merges = list(dict.fromkeys(map(tuple, pairs.tolist())))
    merger = Merger(merges)
    absent = rng.integers(0, 60_000, (20_000, 2))
    asked = np.concatenate((np.array(merges), np.array(merges)[:, ::-1], absent))
    asked = asked[rng.permutation(len(asked))].astype(np.int32)
    expected = [merger.rank.get(pair, NEVER) for pair in map(tuple, asked.tolist())]
    ranks = merger.ranks(asked[:, 0].copy(), asked[:, 1].copy())
    assert ranks.tolist() == expected
    assert merger.rank == {pair: i for i, pair in enumerate(merges)}


@pytest.mark.parametrize("merges", [[], [(0, 0)], [(0, 0), (255, 255), (256, 257)]])
def test_ranks_of_few_merges_or_none(merges):
    left, right = np.divmod(np.arange(260 * 260, dtype=np.int32), np.int32(260))
    ranks = Merger(merges).ranks(left, right)
    found = {
        (left[i].item(), right[i].item()): ranks[i].item() for i in np.flatnonzero(ranks < NEVER)
    }
    assert found == {pair: i for i, pair in enumerate(merges)}
    empty = np.zeros(0, np.int32)
    assert Merger(merges).ranks(empty, empty).tolist() == []
