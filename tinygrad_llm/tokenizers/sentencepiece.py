"""SentencePiece models, by the library of that name: `tokenizer.model`, and Llama's vocabulary inside a GGUF file."""

import json
import os
from base64 import b64encode
from pathlib import Path

import numpy as np
import sentencepiece
from google.protobuf.message import DecodeError
from numpy.typing import ArrayLike
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.tokenizers.base import Tokenizer, utf8
from tinygrad_llm.tokenizers.description import FUSE, added_token, bpe, description, sequence

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # types of pieces
UNIGRAM, BPE = 1, 2  # types of models
SPACE = "▁"  # what stands for a space in a piece


class SentencePieceTokenizer(Tokenizer):
    """What the bytes of a `tokenizer.model` describe.

    legacy  put the space that begins a text also behind every special token, as the first Llamas' tokenizers did
    Raises UserError for bytes that are no whole model.
    """

    def __init__(self, model: bytes, legacy: bool = False):
        try:
            proto = ModelProto.FromString(model)
            if not (proto.pieces and proto.HasField("trainer_spec")):
                raise UserError("it is not a whole SentencePiece model: download it again")
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (DecodeError, RuntimeError) as error:
            message = " ".join(str(error).split())
            raise UserError(f"it is not a SentencePiece model that can be used: {message}") from error
        pieces = proto.pieces
        special = {piece.piece: i for i, piece in enumerate(pieces) if piece.type in (CONTROL, UNKNOWN)}
        super().__init__({i: _bytes(piece) for i, piece in enumerate(pieces)}, special)
        self._proto, self._later = proto, self._processor
        if proto.normalizer_spec.add_dummy_prefix and not legacy:
            later = ModelProto.FromString(model)
            later.normalizer_spec.add_dummy_prefix = False
            self._later = sentencepiece.SentencePieceProcessor(model_proto=later.SerializeToString())
        for role in ("bos", "eos", "unk", "pad"):
            i = getattr(self._processor, f"{role}_id")()
            if i >= 0:
                self.roles[f"{role}_token"] = pieces[i].piece
        self.bos_id = self.special_tokens.get(self.roles.get("bos_token", ""))
        self.eos_ids = {self.special_tokens[self.roles[role]] for role in self.roles if role == "eos_token"}

    def decode(self, ids: ArrayLike) -> str:
        """The text that `ids` stand for, without the space that the model puts before a text."""
        text = super().decode(ids)
        return text.removeprefix(" ") if self._proto.normalizer_spec.add_dummy_prefix else text

    def save(self, folder: str | os.PathLike) -> None:
        """Write `tokenizer.model`, and the same as `tokenizer.json`, which transformers and `load` prefer.

        There, text that begins with a space does not get a second one, as everywhere in today's transformers.
        """
        write_atomic(Path(folder) / "tokenizer.model", self._proto.SerializeToString())
        write_atomic(Path(folder) / "tokenizer.json", json.dumps(self._description(), ensure_ascii=False) + "\n")
        self._save_config(folder)

    def _encode(self, text: str) -> np.ndarray:
        return np.array(self._processor.encode(utf8(text).decode()), np.int32)

    def _encode_after_special(self, text: str) -> np.ndarray:
        return np.array(self._later.encode(utf8(text).decode()), np.int32)

    def _description(self) -> dict:
        pieces, spec = self._proto.pieces, self._proto.normalizer_spec
        prefix = spec.add_dummy_prefix
        scheme = "never" if not prefix else "always" if self._later is self._processor else "first"
        normalizers = []
        if spec.precompiled_charsmap:
            charsmap = b64encode(spec.precompiled_charsmap).decode()
            normalizers.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
        if spec.remove_extra_whitespaces:
            normalizers.append({"type": "Strip", "strip_left": True, "strip_right": True})
            normalizers.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
        decoders = [
            {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
            {"type": "ByteFallback"},
            FUSE,
            {"type": "Strip", "content": " ", "start": int(prefix), "stop": 0},
        ]
        return description(
            self._model(),
            {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False},
            sequence("decoders", decoders),
            [
                added_token(piece.piece, i, piece.type != USER_DEFINED)
                for i, piece in enumerate(pieces)
                if piece.type in (CONTROL, UNKNOWN, USER_DEFINED)
            ],
            normalizer=sequence("normalizers", normalizers) if normalizers else None,
            post_processor=self._post_processor(),
        )

    def _model(self) -> dict:
        pieces, trainer = self._proto.pieces, self._proto.trainer_spec
        if trainer.model_type == UNIGRAM:
            vocab = [[piece.piece, piece.score] for piece in pieces]
            fallback = {"byte_fallback": trainer.byte_fallback}
            return {"type": "Unigram", "unk_id": self._processor.unk_id(), "vocab": vocab} | fallback
        if trainer.model_type != BPE:
            raise UserError("only SentencePiece models of kind BPE or unigram can be saved")
        # The library merges the pair that makes the piece of the highest score; the file wants the pairs in that order.
        scores = {piece.piece: piece.score for piece in pieces if piece.type in (NORMAL, UNUSED)}
        merges = [
            [piece[:k], piece[k:]]
            for piece in sorted(scores, key=scores.get, reverse=True)
            for k in range(1, len(piece))
            if piece[:k] in scores and piece[k:] in scores
        ]
        vocab = {piece.piece: i for i, piece in enumerate(pieces)}
        unknown = pieces[self._processor.unk_id()].piece
        return bpe(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=trainer.byte_fallback)


def _bytes(piece: ModelProto.SentencePiece) -> bytes:
    return bytes([int(piece.piece[1:-1], 16)]) if piece.type == BYTE else piece.piece.replace(SPACE, " ").encode()
