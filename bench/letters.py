"""Reinforcement learning from beginning to end, in minutes: a small GPT learns to write the letter e.

    python bench/letters.py --seeds 0 1 2

It is pretrained on Tiny Shakespeare's characters, and asked to go on after who speaks. PPO and GRPO then learn from a
reward that a program computes, the letter's share in an answer; and again from a reward model, which has seen only
which of two answers has more of it. One JSON object a line: the mean reward of answers to the test set's prompts,
before and after; the share of the letter in them; the divergence from the model to start from, in nats per token; and
by step the reward and the divergence.
"""

import argparse
import contextlib
import io
import json
import re
import tempfile
import time
from pathlib import Path

import numpy as np

from tinygrad_llm.data.sources import read_text
from tinygrad_llm.finetuning.grpo import GRPO
from tinygrad_llm.finetuning.policy import Policy
from tinygrad_llm.finetuning.ppo import PPO
from tinygrad_llm.finetuning.reward import Reward
from tinygrad_llm.finetuning.rollouts import sample
from tinygrad_llm.finetuning.tuner import Finetuner
from tinygrad_llm.formats import load_model
from tinygrad_llm.models import GPTConfig
from tinygrad_llm.tokenizers import load
from tinygrad_llm.training import Trainer, TrainingConfig
from tinygrad_llm.training.metrics import read_metrics

LENGTH = 32  # characters of an answer
ALIGNMENT = {"style": "plain", "max_new_tokens": LENGTH, "weight_decay": 0.0, "warmup_iters": 0, "learning_rate": 1e-3}
TASKS: dict[type[Policy], dict] = {
    PPO: {"batch_size": 64, "kl_coefficient": 0.002, "kl_target": 0.5},
    GRPO: {"batch_size": 8, "group_size": 8, "kl_coefficient": 0.02, "kl_target": 0.5},
}


def pretrained(folder: Path, steps: int, seed: int) -> Path:
    """A model of nanoGPT's recipe for a CPU, trained for so many steps."""
    shape = GPTConfig(vocab_size=0, block_size=64, n_layer=4, n_head=4, n_embd=128, dropout=0.0)
    config = TrainingConfig(
        data="shakespeare", model=shape, max_iters=steps, eval_interval=steps, checkpoint_interval=steps, seed=seed
    )
    Trainer(config, folder).train()
    return folder


def preferences(base: Path, prompts: list[str], file: Path, letter: str, seed: int) -> None:
    """Pairs of answers by the base to each prompt, of which the one with more of the letter is chosen."""
    model, tokenizer = load_model(base), load(base)
    asked = [prompt for prompt in prompts for _ in range(4)]
    ids = [tokenizer.encode(prompt) for prompt in asked]
    texts = [list(map(tokenizer.decode, sample(model, ids, LENGTH, seed=seed + i))) for i in (0, 1)]
    with file.open("w") as lines:
        for prompt, one, other in zip(asked, *texts, strict=True):
            rejected, chosen = sorted((one, other), key=lambda text: text.count(letter))
            if chosen.count(letter) > rejected.count(letter):
                lines.write(json.dumps({"prompt": prompt, "chosen": chosen, "rejected": rejected}) + "\n")


def learned(task: type[Finetuner], run: Path, **settings) -> tuple[dict, float]:
    """What the report of a run says, and the seconds that it took."""
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        tuner = task(task.config_class(**settings), run)
        tuner.train()
        values = tuner.finish().values
    return values, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--letter", default="e")
    parser.add_argument("--pretraining", type=int, default=800, help="steps before it is rewarded")
    parser.add_argument("--steps", type=int, default=30, help="of reinforcement learning")
    args = parser.parse_args()
    text = read_text("shakespeare")
    speakers = sorted(set(re.findall(r"^[A-Z][A-Z ]+:$", text, re.MULTILINE)))
    for seed in args.seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with contextlib.redirect_stdout(io.StringIO()):
                base = pretrained(folder / "base", args.pretraining, seed)
            (folder / "prompts.txt").write_text("\n".join(speakers) + "\n")
            preferences(base, speakers, folder / "pairs.jsonl", args.letter, seed)
            common = {"model": str(base), "seed": seed}
            judge = {"style": "plain", "epochs": 2.0, "batch_size": 16, "learning_rate": 1e-3, "pooling": "mean"}
            values, seconds = learned(Reward, folder / "judge", data=str(folder / "pairs.jsonl"), **common, **judge)
            report = {"seed": seed, "task": "reward", "seconds": seconds} | values["test"]
            print(json.dumps(rounded(report)), flush=True)
            for reward in (f"letter:{args.letter}", str(folder / "judge")):
                for task, settings in TASKS.items():
                    run = folder / f"{task.name}-{Path(reward).name}"
                    options = ALIGNMENT | settings | {"max_iters": args.steps, "eval_interval": args.steps}
                    data = {"data": str(folder / "prompts.txt"), "reward": reward, "answers": len(speakers)}
                    values, seconds = learned(task, run, **common, **options, **data)
                    shares = {
                        when: float(np.mean([share(answer[when], args.letter) for answer in values["answers"]]))
                        for when in ("before", "after")
                    }
                    steps = [line for line in read_metrics(run) if line["split"] == "batch"]
                    report = {"seed": seed, "task": task.name, "reward": Path(reward).name, "seconds": seconds}
                    report |= {"test": values["test"], "share_of_letter": shares}
                    report |= {f"{name}_by_step": [line[name] for line in steps[::5]] for name in ("reward", "kl")}
                    print(json.dumps(rounded(report)), flush=True)


def share(text: str, letter: str) -> float:
    return text.count(letter) / max(len(text), 1)


def rounded(x):
    """With as many digits as mean something."""
    if isinstance(x, dict):
        return {key: rounded(value) for key, value in x.items()}
    if isinstance(x, list):
        return [rounded(value) for value in x]
    return round(x, 4) if isinstance(x, float) else x


if __name__ == "__main__":
    main()
