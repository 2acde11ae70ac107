"""Byte-level byte-pair encoding from scratch (§III.B).

Training starts from single bytes and joins the most frequent pair of neighbouring tokens again and
again; each join is a *merge* and adds one token. Words, as cut by GPT-2's split pattern, bound the
merges. Encoding applies them to each word, the earliest learnt first.

    words    text → words, as one array; which are equal, and how often they occur
    learn    counted words → merges
    merge    words, and texts of them → token ids
    bpe      BPETokenizer, with all that a user calls
"""

from llmlite.tokenizer.bpe import BPETokenizer
from llmlite.tokenizer.learn import BYTE_ORDER
from llmlite.tokenizer.words import END_OF_TEXT, GPT2_SPLIT_PATTERN

__all__ = ["BYTE_ORDER", "END_OF_TEXT", "GPT2_SPLIT_PATTERN", "BPETokenizer"]
