"""Tokenizers come back out of GGUF files as they went in, whether llama.cpp has their kind or not."""

import json

import pytest
import sentencepiece
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Library

from tinygrad_llm import tokenizers
from tinygrad_llm.errors import UserError
from tinygrad_llm.formats import gguf
from tinygrad_llm.models import GPT, GPTConfig

TEXT = "It's the 1234567th word: naïve, Größe.\r\n\n   def f(x):\treturn x_1\n I'LL  say so, they won't. " * 9
HARD = [TEXT, "", " ", "two   runs", "\n\n \t", "3.14 and 1,000", "<|end|> is text", "Größe é\u0301 ﬁ", "猫🙂" * 3]
CHAT = "{% for m in messages %}<|im_start|>{{ m['content'] }}<|end|>{% endfor %}"


def byte_level(folder, cut=None, use_regex=False):
    """One of Hugging Face's library, with special and other added tokens; the text is cut by `cut`, or as GPT-2's."""
    library = Library(models.BPE())
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex or cut is None)
    library.pre_tokenizer = pre_tokenizers.Sequence([cut, last]) if cut else last
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>", "<|im_start|>"],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    library.train_from_iterator([TEXT], trainer)
    library.add_tokens(["<think>"])
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>", "chat_template": CHAT}))
    return tokenizers.load(folder)


def byte_fallback(folder):
    """As transformers has Llama 2's: SentencePiece's BPE as a tokenizer.json."""
    sentence_piece(folder)
    (folder / "tokenizer.model").unlink()
    return tokenizers.load(folder)


def sentence_piece(folder):
    (folder / "text.txt").write_text(TEXT)
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=330,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    tokenizer = tokenizers.load(folder / "tokenizer.model")
    tokenizer.save(folder)
    return tokenizer


def split(pattern: str):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
KINDS = {
    "ours": (lambda folder: tokenizers.train("bpe", TEXT, 300), "gpt2", "gpt-2"),
    "gpt2": (byte_level, "gpt2", "gpt-2"),
    "llama3": (lambda folder: byte_level(folder, split(LLAMA3)), "gpt2", "llama-bpe"),
    "smollm": (lambda folder: byte_level(folder, pre_tokenizers.Digits(True), True), "gpt2", "smollm"),
    "an unknown cut": (lambda folder: byte_level(folder, split(r"\w+|\W")), "no_vocab", None),
    "sentencepiece": (sentence_piece, "llama", "default"),
    "byte fallback": (byte_fallback, "llama", "default"),
    "char": (lambda folder: tokenizers.train("char", "".join(HARD)), "no_vocab", None),
    "word": (lambda folder: tokenizers.train("word", TEXT), "no_vocab", None),
    "byte": (lambda folder: tokenizers.train("byte", TEXT), "no_vocab", None),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tokenizer_comes_back(tmp_path, kind):
    make, model, pre = KINDS[kind]
    tokenizer = make(tmp_path)
    size = tokenizer.vocab_size + 3  # an embedding may have rows to spare
    gguf.save(GPT(GPTConfig(size, 8, 1, 1, 8)), tmp_path / "m.gguf", tokenizer)
    metadata = gguf.read(tmp_path / "m.gguf").metadata
    assert (metadata["tokenizer.ggml.model"], metadata.get("tokenizer.ggml.pre")) == (model, pre)
    if model != "no_vocab":
        assert len(metadata["tokenizer.ggml.tokens"]) == len(metadata["tokenizer.ggml.token_type"]) == size
    again = tokenizers.load(tmp_path / "m.gguf")
    for text in HARD:
        try:
            ids = tokenizer.encode(text).tolist()
        except UserError:
            continue  # a word that it does not know
        if kind == "byte fallback" and text.startswith(" "):
            continue  # which has its own space for the one that llama.cpp puts before
        assert again.encode(text).tolist() == ids
        assert again.decode(ids) == tokenizer.decode(ids)
    assert again.special_tokens.items() >= tokenizer.special_tokens.items()
    for name in ("bos_id", "eos_ids", "chat_template"):
        assert getattr(again, name) == getattr(tokenizer, name)


def test_a_vocabulary_that_does_not_fit_is_refused(tmp_path):
    with pytest.raises(UserError, match="256 tokens, and the model embeds 255"):
        gguf.save(GPT(GPTConfig(255, 8, 1, 1, 8)), tmp_path / "m.gguf", tokenizers.load("byte"))


def test_smollm2_comes_back(smollm2, tmp_path):
    tokenizer = tokenizers.load(smollm2)
    gguf.save(GPT(GPTConfig(49152, 8, 1, 1, 8)), tmp_path / "m.gguf", tokenizer)
    expected, found = (gguf.read(path).metadata for path in (smollm2, tmp_path / "m.gguf"))
    for key in [key for key in expected if key.startswith("tokenizer.") and not key.endswith("add_space_prefix")]:
        assert (
            list(found[key]) == list(expected[key]) if hasattr(found[key], "__len__") else found[key] == expected[key]
        )
