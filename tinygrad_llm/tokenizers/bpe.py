"""Byte-pair encoding: start from bytes, and let the commonest pair of neighbors become a token, again and again.

A compressor by Gage (1994), brought to words by Sennrich, Haddow and Birch, "Neural Machine Translation of Rare Words
with Subword Units" (2016), and to bytes by Radford et al., "Language Models are Unsupervised Multitask Learners"
(2019): with all 256 bytes as the first tokens, there is no text that it cannot write.

    low low lower      l o w | l o w | l o w e r      the commonest pair: (l, o), three times
                       lo w  | lo w  | lo w e r       then (lo, w), three times
                       low   | low   | low e r        and so on, until the vocabulary is full

Learning the merges is this file's lesson; tiktoken applies them.
"""

import re
from collections import Counter, defaultdict
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import pairwise
from operator import itemgetter

import numpy as np
import regex
import tiktoken

from tinygrad_llm.errors import UserError
from tinygrad_llm.tokenizers.base import Tokenizer, training_bytes
from tinygrad_llm.tokenizers.byte import ALPHABET, ByteTokenizer
from tinygrad_llm.tokenizers.description import BYTES_ONLY, sequence, split

# GPT-2's cut, which no merge crosses: English contractions; letters, digits or other marks, each with the space before
# them; whitespace, of which the last space is left to the word that follows.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

ID_OF_BYTE = bytes(ALPHABET.index(b) for b in range(256))


class BPETokenizer(ByteTokenizer):
    """A token is a byte, or two tokens joined. Any text and any bytes come back exactly.

    vocab    token -> id, all 256 bytes among them; the lower of two ids was merged first
    pattern  the regular expression that cuts the text before anything is merged
    """

    def __init__(self, vocab: dict[bytes, int], special_tokens: dict[str, int], pattern: str = GPT2_PATTERN):
        Tokenizer.__init__(self, {i: token for token, i in vocab.items()}, special_tokens)
        self._vocab = vocab
        self._encoding = tiktoken.Encoding("bpe", pat_str=pattern, mergeable_ranks=vocab, special_tokens=special_tokens)
        if pattern != GPT2_PATTERN:
            self.pre_tokenizer = sequence("pretokenizers", [split(pattern), BYTES_ONLY])

    @classmethod
    def train(
        cls, text: str | bytes, vocab_size: int, special_tokens: tuple[str, ...] = ("<|endoftext|>",)
    ) -> "BPETokenizer":
        """Learn a vocabulary of `vocab_size` from `text`: 256 bytes, then the merges, then the special tokens.

        Text with too few pairs to merge gives a smaller vocabulary. Bytes that are not UTF-8 are not learned from.
        """
        n_merges = vocab_size - 256 - len(special_tokens)
        if n_merges < 0:
            raise UserError(
                f"vocab_size {vocab_size} is too small for bpe: 256 bytes and {len(special_tokens)} special tokens "
                f"need {256 + len(special_tokens)}"
            )
        words: Counter[str] = Counter()
        for stretch in _valid_and_invalid(training_bytes(text))[::2]:
            words.update(map(itemgetter(0), regex.finditer(GPT2_PATTERN, stretch)))
        tokens = [bytes([b]) for b in ALPHABET]
        for left, right in learn_merges({word.encode(): count for word, count in words.items()}, n_merges):
            tokens.append(tokens[left] + tokens[right])
        if clash := {name.encode() for name in special_tokens} & set(tokens):
            raise UserError(f"the special token {clash.pop()!r} is ordinary text too: call it something like <|name|>")
        special_ids = {name: len(tokens) + i for i, name in enumerate(special_tokens)}
        return cls({token: i for i, token in enumerate(tokens)}, special_ids)

    @cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The pairs that were merged, first to last, found again from the ids.

        When a token was made, it was a pair of earlier ones: what merging its bytes by the earlier merges leaves.
        """
        merges = []
        for token, i in sorted(self._vocab.items(), key=itemgetter(1)):
            parts = [token[k : k + 1] for k in range(len(token))]
            while len(parts) > 2:
                earliest, k = min((self._vocab.get(a + b, i), k) for k, (a, b) in enumerate(pairwise(parts)))
                if earliest >= i:
                    raise UserError(f"token {i}, {token!r}, is not made of two earlier tokens: this is no BPE")
                parts[k : k + 2] = [parts[k] + parts[k + 1]]
            if len(parts) == 2:
                merges.append((parts[0], parts[1]))
        return merges

    def encode_bytes(self, data: bytes) -> np.ndarray:
        """The ids of any bytes at all, int32 (n,); a byte outside valid UTF-8 is a token by itself."""
        ids = []
        for n, stretch in enumerate(_valid_and_invalid(data)):
            if n % 2 == 0:
                ids.append(self._encode_text(stretch))
            else:
                lone = stretch.encode("utf-8", "surrogateescape")
                ids.append(np.array([self._vocab[lone[k : k + 1]] for k in range(len(lone))], np.int32))
        return np.concatenate(ids)

    def _encode_text(self, text: str) -> np.ndarray:
        try:
            return self._encoding.encode_to_numpy(text, disallowed_special=()).astype(np.int32)
        except ValueError:  # the regular expression engine runs out of stack on a million spaces in a row
            middle = len(text) // 2
            return np.concatenate([self._encode_text(text[:middle]), self._encode_text(text[middle:])])


def learn_merges(words: dict[bytes, int], n_merges: int) -> list[tuple[int, int]]:
    """The first `n_merges` merges for `words` and how often each occurs, as pairs of ids; merge k makes id 256 + k.

    The commonest pair is merged, and of several the one with the lowest ids: the rule of Hugging Face's BpeTrainer, so
    that the merges are the same to the last. No two merges make the same token: between two places that no merge has
    crossed, the same bytes have merged in the same way wherever they stand.

    Counting all pairs
    again after every merge would be slow: instead each pair knows the words that hold it, and only those are counted
    anew. The heap may claim more for a pair than is left of it, never less, so the top is checked when it comes up.
    """
    spelled = [list(word.translate(ID_OF_BYTE)) for word in words]
    counts = list(words.values())
    pair_counts: Counter[tuple[int, int]] = Counter()
    holders = defaultdict(set)  # pair -> the words that hold it, or once did
    for w, word in enumerate(spelled):
        for pair in pairwise(word):
            pair_counts[pair] += counts[w]
            holders[pair].add(w)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapify(heap)

    merges = []
    while heap and len(merges) < n_merges:
        claimed, pair = heappop(heap)
        if pair_counts[pair] < -claimed:
            if pair_counts[pair] > 0:
                heappush(heap, (-pair_counts[pair], pair))
            continue
        new = 256 + len(merges)
        merges.append(pair)
        born = set()
        for w in holders.pop(pair):
            before, after = spelled[w], merge(spelled[w], pair, new)
            spelled[w] = after
            for old in pairwise(before):
                pair_counts[old] -= counts[w]
            for fresh in pairwise(after):
                pair_counts[fresh] += counts[w]
                if new in fresh:
                    holders[fresh].add(w)
                    born.add(fresh)
        for fresh in born:
            heappush(heap, (-pair_counts[fresh], fresh))
    return merges


def merge(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """`word` with `new` in place of every `pair`, from left to right."""
    merged, k = [], 0
    while k < len(word):
        found = word[k] == pair[0] and k + 1 < len(word) and word[k + 1] == pair[1]
        merged.append(new if found else word[k])
        k += 2 if found else 1
    return merged


def _valid_and_invalid(data: bytes) -> list[str]:
    """`data` as text that is valid UTF-8, stray bytes, text, stray bytes, and so on."""
    return re.split("([\udc80-\udcff]+)", data.decode("utf-8", "surrogateescape"))
