"""`tinygrad-llm chat`"""

import contextlib
import json
import secrets
import sys
from dataclasses import asdict, dataclass, replace

from tinygrad_llm.cli.loading import MODEL, Loading, notice
from tinygrad_llm.cli.parsing import Parser, take
from tinygrad_llm.errors import UserError
from tinygrad_llm.files import write_atomic
from tinygrad_llm.generation import Sampling
from tinygrad_llm.generation.conversation import Conversation
from tinygrad_llm.training.interrupt import Interrupt

DESCRIPTION = f"""Talk with a model that has a chat template, as those tuned for conversations do. MODEL is
{MODEL}.

examples:
  tinygrad-llm chat SmolLM2-135M-Instruct.Q4_1.gguf
  tinygrad-llm chat model.gguf --system "Answer in one sentence." --temperature 0
  tinygrad-llm chat model.gguf --message "What is the capital of France?"      one answer, then the end
  tinygrad-llm chat model.gguf < questions.txt                                 an answer to each line
"""

HELP = """/help            this list
/reset           begin anew; the system text stays
/system TEXT     what the model is told before everything else; without TEXT, nothing
/settings        show the settings
/set NAME VALUE  change one, as /set temperature 0.7 or /set top_k none
/save FILE       save the conversation as JSON
/quit            leave, as Ctrl-D does
Ctrl-C stops an answer."""


@dataclass(frozen=True)
class Talk:
    """The conversation.

    Args:
        message: say this, print the answer and end
        system: what the model is told before everything else; its template may have a text of its own for that
        max_new_tokens: the most tokens of an answer
        context_size: the most tokens of a conversation, never more than the model's block
    """

    message: str | None = None
    system: str | None = None
    max_new_tokens: int = 512
    context_size: int = 8192

    def __post_init__(self):
        for name in ("max_new_tokens", "context_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, not {getattr(self, name)}")


def run(argv: list[str]) -> int:
    parser = Parser("chat", DESCRIPTION, Talk, Sampling, Loading, positional="MODEL")
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.set_defaults(temperature=0.7, top_p=0.9)
    settings = parser.settings(argv)
    talk, sampling, loading = (take(settings, kind) for kind in (Talk, Sampling, Loading))
    source = settings["model"]
    model, tokenizer = loading.load(source)
    if tokenizer.chat_template is None:
        raise UserError(
            f"{source} has no chat template, so it was not made for conversations; "
            f'let it continue a text: tinygrad-llm generate {source} --prompt "..."'
        )
    chat = Chat(Conversation(model, tokenizer, talk.system, talk.context_size), talk, sampling)
    with notice():
        if talk.message is not None:
            chat.say(talk.message)
        else:
            introduce(source, chat)
            chat.converse()
    return 0


def introduce(source: str, chat: "Chat") -> None:
    if not sys.stdin.isatty():
        return
    with contextlib.suppress(ImportError):  # not on every system
        import readline  # noqa: F401 (gives `input` line editing and a history)
    c, capacity = chat.conversation.model.config, chat.conversation.context.capacity
    print(f"{source}: {c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide; a context of {capacity:,} tokens")
    chat.settings()
    print("Type a message; /help lists the commands, Ctrl-D leaves.")


class Chat:
    """Reads lines and answers them: a command begins with a slash, everything else is said to the model."""

    def __init__(self, conversation: Conversation, talk: Talk, sampling: Sampling):
        self.conversation, self.talk, self.sampling = conversation, talk, sampling

    def converse(self) -> None:
        """Until the end of the input, or /quit. A mistake costs a line, not the conversation."""
        prompt = "\n> " if sys.stdin.isatty() else ""
        while True:
            try:
                line = input(prompt).strip()
                if line == "/quit":
                    return
                self.take(line)
            except EOFError:
                return
            except KeyboardInterrupt:
                print()  # what was being typed is given up
            except UserError as error:
                print(f"tinygrad-llm: {error}", file=sys.stderr)

    def take(self, line: str) -> None:
        """Do what a line asks for."""
        commands = {
            "/help": lambda _: print(HELP),
            "/reset": lambda _: self.reset(),
            "/system": self.system,
            "/settings": lambda _: self.settings(),
            "/set": self.set,
            "/save": self.save,
        }
        command, _, rest = line.partition(" ")
        if command in commands:
            commands[command](rest.strip())
        elif line.startswith("/"):
            raise UserError(f"there is no command {command}; /help lists them")
        elif line:
            self.say(line)

    def say(self, message: str) -> None:
        """Say it to the model, and show the answer as it comes, until it ends or Ctrl-C."""
        dropped = self.conversation.ask(message, self.talk.max_new_tokens)
        if dropped:
            first = dropped[0]["content"].split("\n")[0]
            note(f"the context is full: left out the oldest {len(dropped) // 2} of the turns, from {first[:40]!r} on")
        sampling = self.sampling
        if sampling.seed is None:
            sampling = replace(sampling, seed=secrets.randbelow(2**32))
        pieces = self.conversation.answer(self.talk.max_new_tokens, sampling)
        with Interrupt() as interrupt, contextlib.closing(pieces):
            for piece in pieces:
                sys.stdout.write(piece)
                sys.stdout.flush()
                if interrupt.requested:
                    break
        print()
        if self.conversation.finish_reason == "length":
            note("the answer is cut here: it has as many tokens as max_new_tokens, or the context, allows")

    def reset(self) -> None:
        self.conversation.reset()
        note("the conversation begins anew")

    def system(self, text: str) -> None:
        self.conversation.system = text or None
        note("the system text is set" if text else "there is no system text but what the template has")

    def settings(self) -> None:
        values = asdict(self.sampling) | {"max_new_tokens": self.talk.max_new_tokens}
        print("  ".join(f"{name} {'none' if value is None else value}" for name, value in values.items()))
        print(f"system {self.conversation.system or 'none but what the template has'}")

    def set(self, text: str) -> None:
        name, _, value = text.partition(" ")
        place = "talk" if name == "max_new_tokens" else "sampling"
        known = ["max_new_tokens", *asdict(self.sampling)]
        if name not in known:
            raise UserError(f"there is no setting {name!r}: choose one of {', '.join(known)}")
        whole = name in ("max_new_tokens", "top_k", "seed")
        optional = name not in ("max_new_tokens", "temperature", "repetition_penalty")
        try:
            number = None if optional and value.strip() == "none" else (int if whole else float)(value)
        except ValueError:
            kind = "a whole number" if whole else "a number"
            raise UserError(f"{name} must be {kind}{' or none' if optional else ''}, not {value!r}") from None
        setattr(self, place, replace(getattr(self, place), **{name: number}))

    def save(self, file: str) -> None:
        if not file:
            raise UserError("give the name of a file: /save FILE")
        content = {"settings": asdict(self.sampling), "messages": self.conversation.messages}
        write_atomic(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
        print(f"saved {file}")


def note(text: str) -> None:
    """A word about the conversation, apart from it."""
    print(f"[{text}]", file=sys.stderr)
