"""Mutants of the CUDA kernels, from the syntax tree of their C++, compiled all at once.

What is changed: signs turned, + and - and * and / exchanged, terms and factors left out, `+=` made `=`, constants
changed, `<` made `<=`, conditions made true or false, functions left out, minus infinity made -1e4, statements and
barriers dropped.

A compilation takes seconds, and a comparison with PyTorch on the emulator milliseconds. So the mutants of a file are
compiled as one program, a schema (Untch, Offutt & Harrold 1993, https://doi.org/10.1145/154183.154265): where a mutant
has `a - b` for `a + b`, the schema has `(MUTANT == 7 ? (a - b) : (a + b))`. That is 50 times faster. MUTANT is read
from the environment when the library is loaded. Only what must be known at compile time, such as a template's argument,
is compiled by itself.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from tinygrad_llm.errors import UserError
from tinygrad_llm.kernels.cuda.emulator.build import COMMENT
from tinygrad_llm.mutation.changes import Change

try:
    import tree_sitter
    import tree_sitter_cuda
except ModuleNotFoundError as error:
    raise UserError("mutants of CUDA kernels need a parser: pip install 'tinygrad-llm[test]'") from error

VARIABLE = "TINYGRAD_LLM_MUTANT"
NUMBER = f'static const int MUTANT = std::getenv("{VARIABLE}") ? std::atoi(std::getenv("{VARIABLE}")) : -1; '

OTHER = {
    **{"+": "-", "-": "+", "*": "/", "/": "*", "%": "/", "<<": ">>", ">>": "<<", "&": "|", "|": "&", "^": "|"},
    **{"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "&&": "||", "||": "&&"},
    **{"true": "false", "false": "true", "CUDART_INF_F": "1e4f"},
}
OTHER_ASSIGNMENT = {"+=": ("=", "-="), "-=": ("=", "+="), "*=": ("=", "/="), "/=": ("=", "*=")}
LEFT_ENOUGH = {"+", "-", "*", "/", "%", "&&", "||", "&", "^", "<<", ">>"}  # what may go on without its right operand,
RIGHT_ENOUGH = {"+", "*", "&&", "||", "&", "^"}  # and without its left
CONVERSIONS = ("to_float", "from_float")  # which C++ makes anyway
EXTREMES = {"fmaxf", "fminf", "max", "min"}
WITHOUT_RESULT = {"static_assert_declaration", "alignas_qualifier", "launch_bounds", "sizeof_expression", "preproc_if"}
PRAGMA = re.compile(r"^[ \t]*#pragma[^\n]*", re.MULTILINE)

_parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_cuda.language()))


class Edit(NamedTuple):
    """A mutant as a replacement in a source; `apart` if the schema cannot have it, since compilation depends on it."""

    start: int
    end: int
    new: str
    apart: bool = False
    statement: bool = False


def edits(text: str) -> list[Edit]:
    """Every mutant of a CUDA source, in the order of its lines."""
    found = dict.fromkeys(_edits(_parser.parse(bare(text).encode()).root_node, False))
    return sorted(found, key=lambda edit: (edit.start, -edit.end))


def bare(text: str) -> str:
    """The source without comments and pragmas, every character where it was."""
    for pattern in (COMMENT, PRAGMA):
        text = pattern.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), text)
    return text


def _edits(node, apart: bool) -> Iterator[Edit]:
    if node.type in WITHOUT_RESULT or (node.type == "preproc_ifdef" and _of_device(node)):
        return
    if node.type in ("template_argument_list", "enumerator") or _is_constant(node):
        apart = True
    statement = node.type == "expression_statement"
    for new in _replacements(node):
        yield Edit(node.start_byte, node.end_byte, new, apart, statement)
    for name, child in ((node.field_name_for_child(i), child) for i, child in enumerate(node.children)):
        if name == "size" or (name == "condition" and any(x.type == "constexpr" for x in node.children)):
            continue
        yield from _edits(child, apart)


def _of_device(node) -> bool:
    return _text(node.child_by_field_name("name")) == "__CUDACC__"


def _is_constant(node) -> bool:
    """Whether it declares what templates and the sizes of arrays are made of. Other constants a schema can have."""
    return node.type in ("declaration", "field_declaration") and _text(node).startswith(
        ("constexpr int", "static constexpr int", "constexpr bool")
    )


def _text(node) -> str:
    return " ".join(node.text.decode().split())


def _replacements(node) -> Iterator[str]:
    """What stands for the node in a mutant."""
    fields = (node.child_by_field_name(name) for name in ("left", "right", "operator", "argument"))
    left, right, operator, argument = (_text(x) if x else "" for x in fields)
    match node.type:
        case "binary_expression":
            yield f"{left} {OTHER[operator]} {right}"
            if operator in LEFT_ENOUGH:
                yield left
            if operator in RIGHT_ENOUGH:
                yield right
        case "unary_expression" if operator in "-!":
            yield argument
        case "assignment_expression" if operator in OTHER_ASSIGNMENT:
            yield from (f"{left} {other} {right}" for other in OTHER_ASSIGNMENT[operator])
        case "expression_statement" if node.named_child(0).type != "conditional_expression":
            yield ";"
        case "conditional_expression":
            yield from (_text(node.child_by_field_name(name)) for name in ("consequence", "alternative"))
        case "call_expression":
            inputs, function = (node.child_by_field_name(name) for name in ("arguments", "function"))
            inputs, function = inputs.named_children, _text(function)
            if (len(inputs) == 1 and not function.startswith(CONVERSIONS)) or function in EXTREMES:
                yield from map(_text, inputs)
        case "condition_clause" if node.parent.type == "if_statement":
            yield from ("(true)", "(false)")
        case "number_literal":
            yield from _other_numbers(_text(node))
        case "true" | "false" | "identifier" if _text(node) in OTHER:
            yield OTHER[_text(node)]


def _other_numbers(text: str) -> Iterator[str]:
    if re.search(r"[.e]", text) and not text.startswith("0x"):
        yield f"2 * {text}" if float(text.rstrip("f")) else "1.0f"
    else:
        yield f"{text} + 1"
        if float.fromhex(text.rstrip("u")) > 1:
            yield f"{text} - 1"


def change(text: str, edit: Edit) -> Change:
    """The source with one mistake."""
    first, last = text.rfind("\n", 0, edit.start) + 1, text.find("\n", edit.end)
    old, new = text[edit.start : edit.end], edit.new if edit.statement else f"({edit.new})"
    what = f"{text[first : edit.start]}«{old} → {edit.new}»{text[edit.end : last]}"
    line = text.count("\n", 0, edit.start) + 1
    return Change(line, " ".join(what.split()), text[: edit.start] + new + text[edit.end :])


def schema(text: str, found: list[Edit]) -> tuple[str, list[tuple[int, int]]]:
    """One source that is each of these mutants when MUTANT is its number, and the source itself when it is -1.

    Also where in it each mutant lies, for errors of the compiler's: not all changes make sense to it.
    """
    code = bare(text)
    out, length, places = [], 0, {}

    def write(piece: str) -> None:
        nonlocal length
        out.append(piece)
        length += len(piece)

    def emit(start: int, end: int, inside: list[tuple[int, Edit]]) -> None:
        """Code from start to end with the mutants inside, of which those of the largest pieces come first."""
        while inside:
            piece = inside[0][1]
            here = [(number, edit) for number, edit in inside if edit[:2] == piece[:2]]
            within = [(number, edit) for number, edit in inside[len(here) :] if edit.start < piece.end]
            inside = inside[len(here) + len(within) :]
            write(_constants(code[start : piece.start]))
            for number, edit in here:
                begin = length
                write(f"{{ if (MUTANT != {number}) " if edit.statement else f"(MUTANT == {number} ? ({edit.new}) : ")
                places[number] = begin, length
            write("" if piece.statement else "(")
            emit(piece.start, piece.end, within)
            write(" }" if piece.statement else ")" * (len(here) + 1))
            start = piece.end
        write(_constants(code[start:end]))

    write(NUMBER)  # on the first line, where a comment was, so that the others keep their numbers
    emit(0, len(code), list(enumerate(found)))
    return "".join(out), [places[number] for number in range(len(found))]


def _constants(code: str) -> str:
    """Constants that no array's size is made of need not be known to the compiler."""
    return re.sub(r"\bconstexpr(?= (?:float|unsigned))", "const", code)
