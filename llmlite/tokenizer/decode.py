"""Token ids back to the bytes that they stand for, thousands at a time."""

import struct

import numpy as np

from llmlite.errors import TokenizerError

NOT_IDS = "Token ids must be integers in one dimension, as `encode` gives them, of 64 bits at most."


class Decoder:
    """The bytes of every token behind one another, and where each begins."""

    def __init__(self, token_bytes: list[bytes]):
        self._lengths = np.array([len(token) for token in token_bytes])
        self._starts = self._lengths.cumsum() - self._lengths
        self._eights = _eights(np.frombuffer(b"".join(token_bytes) + bytes(8), np.uint8))
        self._first_eight = self._eights[self._starts]

    def __call__(self, ids: list[int] | np.ndarray) -> bytes:
        """The bytes of `ids`, one token behind the other.

        Eight bytes of each token are written at once, in order, so that what a shorter token writes
        too much is overwritten by the tokens after it. Bytes of a longer one that are still missing
        are then written, again by eight, the last eight ending where it ends.
        """
        ids = self._checked(ids)
        lengths = self._lengths.take(ids)
        ends = lengths.cumsum()
        starts = ends - lengths
        out = np.empty(int(ends[-1]) + 8, np.uint8)
        eight_at = _eights(out)
        eight_at[starts] = self._first_eight.take(ids)
        longer, written = np.flatnonzero(lengths > 8), 8
        while len(longer):
            offset = np.minimum(written, lengths[longer] - 8)
            eight_at[starts[longer] + offset] = self._eights[self._starts[ids[longer]] + offset]
            written += 8
            longer = longer[lengths[longer] > written]
        return out[: ends[-1]].tobytes()

    def _checked(self, ids: list[int] | np.ndarray) -> np.ndarray:
        """`ids` as an array; TokenizerError for the first that is not in the vocabulary."""
        try:
            if isinstance(ids, list):  # takes half the time of np.array
                ids = np.frombuffer(struct.pack(f"{len(ids)}q", *ids), np.int64)
            if ids.ndim != 1 or ids.dtype.kind not in "iu":
                raise TypeError
        except (struct.error, TypeError):
            raise TokenizerError(NOT_IDS) from None
        size = len(self._lengths)
        if ids.min() < 0 or ids.max() >= size:
            wrong = ids[(ids < 0) | (ids >= size)][0]
            raise TokenizerError(f"Token id {wrong} is outside this vocabulary (0 to {size - 1}).")
        return ids


def _eights(data: np.ndarray) -> np.ndarray:
    """A view of bytes (n,) as the 64-bit numbers that begin at each byte: (n - 7,)."""
    return np.ndarray((len(data) - 7,), np.uint64, data, strides=(1,))
