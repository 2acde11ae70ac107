"""Byte-level byte-pair encoding from scratch (§III.B).

Knows nothing about corpora, splits or models: text goes in, integers come out. With bytes as the
base alphabet no text is out of vocabulary.

Training starts from single bytes and joins the most frequent pair of neighbouring tokens again and
again; each join is a *merge* and adds one token. Words, as cut by GPT-2's split pattern, bound the
merges. Encoding cuts a text into words and applies the merges to each, the earliest learnt first.

    bpe          BPETokenizer, with all that a user calls
    split        text → words, by GPT-2's pattern or another          pieces   … of long texts
    words        many words as one array; which of them are equal, and how often they occur
    learn        counted words → merges                               merge    words → token ids
    decode       token ids → bytes                                    interchange   other libraries
"""

from llmlite.tokenizer.bpe import END_OF_TEXT, BPETokenizer
from llmlite.tokenizer.learn import BYTE_ORDER
from llmlite.tokenizer.split import GPT2_SPLIT_PATTERN

__all__ = ["BYTE_ORDER", "END_OF_TEXT", "GPT2_SPLIT_PATTERN", "BPETokenizer"]
