"""What several tests share: texts that are hard on tokenizers, and small tokenizers made by other libraries."""

import json

import tokenizers
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]
TEXT = "It's the 1234567th word: naïve, Größe 猫🙂\r\n\n   def f(x):\treturn x_1 <|im_end|>\n I'LL  say so. " * 5
LLAMA3 = (  # as Meta's tokenizer.json has it; Qwen2's is the same for one digit at a time
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
HARD = [
    "It's I'LL 'tis don't ",
    "two   runs of    spaces ",
    "\r\n\r\n",
    "\n\n\n \n\t\t",
    "1234567 3.14 ٣٤٥ Ⅷ ½",
    "naïve Größe 猫が好き ประเทศ हिन्दी",
    "e\u0301 ﬁ Å \u00a0\u3000\u200d",
    "👩‍👩‍👧 🙂🏽",
    "def f(x):\n\treturn x_1 != -2  # no\n",
    "\x00\x7f\ufffd\U0010ffff",
    "<|im_end|>",
    "<|im_start|>system",
    "<s>[INST] </s><unk>",
    "<think>",
    "ĠĊ",
]
hard_texts = st.lists(st.one_of(st.text(max_size=20), st.sampled_from(HARD)), max_size=6).map("".join)


def library(kind: str) -> tokenizers.Tokenizer:
    """A tokenizer of Hugging Face's library in the form that a family of models has, trained on TEXT."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if kind == "wordpiece":
        oracle = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        oracle.normalizer, oracle.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        oracle.decoder = decoders.WordPiece(cleanup=False)
        trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", *SPECIAL], show_progress=False)
    elif kind == "unigram":
        oracle = tokenizers.Tokenizer(models.Unigram())
        oracle.pre_tokenizer, oracle.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=120, special_tokens=["<unk>", *SPECIAL], unk_token="<unk>", show_progress=False
        )
    elif kind == "llama2":
        oracle = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
        oracle.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        oracle.decoder = decoders.Sequence(parts)
        bytes_ = [f"<0x{b:02X}>" for b in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=["<unk>", *SPECIAL, *bytes_], show_progress=False, max_token_length=8
        )
    else:
        oracle = tokenizers.Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
        pattern = LLAMA3 if kind == "llama3" else LLAMA3.replace("{1,3}", "")
        cut = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        if kind == "smollm":
            cut, byte_level = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)
        oracle.pre_tokenizer = pre_tokenizers.Sequence([cut, byte_level])
        oracle.decoder = decoders.ByteLevel()
        if kind == "qwen2":
            oracle.normalizer = normalizers.NFC()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=350, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
    oracle.train_from_iterator([TEXT], trainer)
    if kind == "llama2":  # the bytes are words of the vocabulary, and no special tokens
        description = json.loads(oracle.to_str())
        description["added_tokens"] = description["added_tokens"][: 1 + len(SPECIAL)]
        oracle = tokenizers.Tokenizer.from_str(json.dumps(description))
    oracle.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    if kind in ("llama2", "llama3"):
        start = ("<s>", oracle.token_to_id("<s>"))
        oracle.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [start])
    return oracle
