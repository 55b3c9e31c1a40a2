"""Flags and YAML from dataclasses: one typed definition gives the settings, their checks and their help."""

import argparse
import difflib
import re
from dataclasses import fields

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from tinygrad_llm.errors import UserError


class Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description as they are."""


def take(settings: dict, kind: type):
    """The dataclass `kind` made of its fields among the settings, where they are no longer."""
    return kind(**{field.name: settings.pop(field.name) for field in fields(kind)})


class Parser(ArgumentParser):
    """The parser of `tinygrad-llm COMMAND`: a flag for every field of the `settings`, dataclasses, and `--config`.

    Help texts are the entries under "Args:" in the docstrings of the dataclasses, and of those nested in them.
    """

    def __init__(self, command: str = "", description: str = "", *settings: type, positional: str = "", **options):
        # jsonargparse makes parsers of this class, with options of its own, for dataclasses that may be None.
        super().__init__(
            prog=f"tinygrad-llm {command}",
            usage=f"tinygrad-llm {command} {positional} [--SETTING VALUE ...]".replace("  ", " "),
            description=description,
            formatter_class=Formatter,
            **{"exit_on_error": False} | options,
        )
        self.add_argument("--config", action="config", help="a YAML file of settings; flags after it overrule it")
        for kind in settings:
            self.add_class_arguments(kind, as_group=False)

    def settings(self, argv: list[str]) -> dict:
        """The settings by name, nested dataclasses made. Raises UserError, in one line, for what does not fit."""
        try:
            values = vars(self.instantiate(self.parse_args(argv)))
        except UserError:
            raise
        except (ArgumentError, TypeError, ValueError) as error:
            raise UserError(self._one_line(str(error))) from error
        del values["config"]
        return values

    def _one_line(self, message: str) -> str:
        """What was wrong, in the user's words rather than Python's."""
        message = " ".join(message.split())
        if nested := re.search(  # of a dataclass that may be None, what is wrong with the dataclass
            r"(?:\"(\w+)\": )?Does .*Config'>, <class 'NoneType'>\] Errors: - (?:Problem .*?': )?(.*) - Exp", message
        ):
            name = f"{nested[1]}." if nested[1] else ""
            return self._one_line(re.sub("(Parser key \"|Option ')", rf"\g<1>{name}", nested[2]))
        if unknown := re.match(r"(?:unrecognized arguments: |Option ')([\w.=+-]*)", message):
            name = unknown[1].lstrip("-").partition("=")[0]
            known = [option.lstrip("-") for option in self._option_string_actions]
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {close[0]}?" if close else f"see {self.prog} --help"
            return f"there is no setting {unknown[1]!r}; {hint}"
        if wrong := re.match(r'Parser key "(.+?)": Expected an? (.+)\. Got value: (.*)', message):
            expected = re.sub(r"<class '(\w+)'>", r"\1", wrong[2]).replace("typing.Literal", "one of ")
            return f"{wrong[1]} is {wrong[3]!r}, but must be {expected}"
        if wrong := re.match(
            r'Parser key "(.+?)": Does not validate .*?Subtypes: \[(.+?)\].* Given value: (.*)', message
        ):
            expected = " or ".join(re.findall(r"'(\w+)'", wrong[2])).replace("NoneType", "null")
            return f"{wrong[1]} is {wrong[3]!r}, but must be {expected}"
        return re.sub(r'^Parser key "(.+?)": ', r"\1: ", message)
