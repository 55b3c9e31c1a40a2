"""Every small mistake that one could make in a Python source, as replacements in its text.

An operator of mutation testing (DeMillo, Lipton & Sayward 1978, https://doi.org/10.1109/C-M.1978.218136) looks at one
node of the syntax tree and says which pieces of text stand for it if the author slipped: a term or a factor left out, a
sign turned, + for - and * for /, a constant changed, `<` for `<=`, `+=` made `=`, a reduction over the wrong axis or no
axis, `keepdims` or a conversion dropped, a transpose forgotten, repeated tokens dropped, -inf made finite, a range one
too short, a condition always true. The rest of the text stays as it is, line by line.

What has no result is left alone: docstrings, annotations, decorators, messages of errors, prefetches, and code that
writes LLVM's language for the compiler rather than computing. So are, on a page, the functions below the one that joins
it to the tape: compositions of operations, which have no derivative of their own.
"""

import ast
from typing import NamedTuple

OTHER = {
    **{"+": ["-"], "-": ["+"], "*": ["/"], "/": ["*"], "//": ["*"], "%": ["//"], "**": ["*"]},
    **{"&": ["|"], "|": ["&"], "^": ["|"], "<<": [">>"], ">>": ["<<"], "@": []},
    **{"<": ["<=", ">="], "<=": ["<", ">"], ">": [">=", "<="], ">=": [">", "<"], "==": ["!="], "!=": ["=="]},
    **{"is": ["is not"], "is not": ["is"], "in": ["not in"], "not in": ["in"], "and": ["or"], "or": ["and"]},
}
TOKENS = {
    **{ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/", ast.FloorDiv: "//", ast.Mod: "%", ast.Pow: "**"},
    **{ast.BitAnd: "&", ast.BitOr: "|", ast.BitXor: "^", ast.LShift: "<<", ast.RShift: ">>", ast.MatMult: "@"},
    **{ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="},
    **{ast.Is: "is", ast.IsNot: "is not", ast.In: "in", ast.NotIn: "not in", ast.And: "and", ast.Or: "or"},
    **{ast.USub: "-", ast.UAdd: "+", ast.Invert: "~", ast.Not: "not "},
}
OTHER_FUNCTION = {"sum": "mean", "mean": "sum", "max": "min", "maximum": "minimum", "any": "all", "tril": "triu"}
OTHER_FUNCTION |= {value: key for key, value in OTHER_FUNCTION.items()}
SILENT = {"prefetch", "fetch", "operation"}  # calls that compute nothing
LIKE = {"empty_like", "zeros_like", "ones_like", "full_like"}  # functions of an array's shape and dtype alone
FOR_COMPILER = {"builder", "typing_context", "context"}  # parameters of functions that write LLVM's language
ATOMS = (ast.Name, ast.Call, ast.Attribute, ast.Subscript)


class Change(NamedTuple):
    """A source with one mistake: the line where it begins, the changed lines with «old → new», and the whole text."""

    line: int
    what: str
    source: str


def changes(source: str) -> list[Change]:
    """Every change of a source, in the order of its lines, each different text once."""
    edits = Edits(source)
    edits.visit(ast.parse(source))
    found: dict[str, Change] = {}
    for change in (edits.change(*edit) for edit in sorted(edits.found)):
        found.setdefault(change.source, change)
    return list(found.values())


class Edits(ast.NodeVisitor):
    """Collects edits (start, end, new text), in bytes of the source."""

    def __init__(self, source: str):
        self.text = source.encode()
        self.lines = [0]
        for line in self.text.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.found: set[tuple[int, int, bytes]] = set()
        self.modules: set[str] = set()

    def change(self, start: int, end: int, new: bytes) -> Change:
        first = self.text.rfind(b"\n", 0, start) + 1
        last = self.text.find(b"\n", end)
        line = self.text[first:start] + "«".encode() + self.text[start:end] + " → ".encode() + new + "»".encode()
        what = " ".join((line + self.text[end:last]).decode().split())
        changed = self.text[:start] + new + self.text[end:]
        return Change(self.text.count(b"\n", 0, start) + 1, what, changed.decode())

    # where things are

    def start(self, node: ast.AST) -> int:
        return self.lines[node.lineno - 1] + node.col_offset

    def end(self, node: ast.AST) -> int:
        return self.lines[node.end_lineno - 1] + node.end_col_offset

    def segment(self, node: ast.AST) -> bytes:
        """A node's text, in parentheses unless it is one piece."""
        text = self.text[self.start(node) : self.end(node)]
        return text if isinstance(node, ATOMS) else b"(" + text + b")"

    def between(self, token: str, before: ast.AST, after: ast.AST) -> tuple[int, int]:
        """Where the token between two nodes is."""
        start = self.text.index(token.encode(), self.end(before), self.start(after))
        return start, start + len(token)

    def replace(self, start: int, end: int, *texts: str | bytes) -> None:
        for text in texts:
            new = text.encode() if isinstance(text, str) else text
            if self.text[start:end] != new:
                self.found.add((start, end, new))

    def replace_node(self, node: ast.AST, *texts: str | bytes) -> None:
        self.replace(self.start(node), self.end(node), *texts)

    # what is left alone

    def visit_Import(self, node):
        self.modules.update((alias.asname or alias.name).partition(".")[0] for alias in node.names)

    def visit_ImportFrom(self, node):
        self.modules.update(alias.asname for alias in node.names if alias.asname)

    def _leave(self, node):
        """Messages, types."""

    visit_Raise = visit_JoinedStr = visit_AnnAssign = _leave

    def visit_Module(self, node):
        for part in node.body:
            self.visit(part)
            if isinstance(part, ast.Assign) and _is_call(part.value, "operation"):
                break

    def visit_FunctionDef(self, node):
        if FOR_COMPILER.isdisjoint(argument.arg for argument in node.args.args):
            for part in (*node.args.defaults, *node.args.kw_defaults, *node.body):
                if part is not None:
                    self.visit(part)

    # statements

    def visit_Assign(self, node):
        if _is_call(node.value, *SILENT):
            return
        (target,) = node.targets[-1:]
        assigned = _name(target) if isinstance(target, ast.Name) else None
        again = any(isinstance(x, ast.Name) and x.id == assigned for x in ast.walk(node.value))
        if again or isinstance(target, ast.Subscript):
            self.replace_node(node, "pass")
        self.generic_visit(node)

    def visit_AugAssign(self, node):
        start, end = self.between(f"{TOKENS[type(node.op)]}=", node.target, node.value)
        self.replace(start, end, "=", *(f"{other}=" for other in OTHER[TOKENS[type(node.op)]]))
        self.replace_node(node, "pass")
        self.generic_visit(node)

    def visit_Expr(self, node):
        if isinstance(node.value, ast.Call) and _name(node.value.func) not in SILENT:
            self.replace_node(node, "pass")
            function, arguments = node.value.func, [self.segment(x).decode() for x in node.value.args]
            if isinstance(function, ast.Attribute) and ast.unparse(function) == "np.add.at":
                array, index, added = arguments
                self.replace_node(node, f"{array}[{index}] = {added}", f"{array}[{index}] += {added}")
                self.replace_node(node, f"np.subtract.at({', '.join(arguments)})")
            self.generic_visit(node)

    def visit_Return(self, node):
        for value in node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]:
            if not isinstance(value, (ast.Constant, ast.Starred, ast.Compare, ast.BoolOp, ast.JoinedStr, type(None))):
                self.replace_node(value, b"-" + self.segment(value))
        self.generic_visit(node)

    def visit_If(self, node):
        self.replace_node(node.test, "True", "False")
        self.generic_visit(node)

    def visit_While(self, node):
        self.replace_node(node.test, "False")
        self.generic_visit(node)

    # expressions

    def visit_BinOp(self, node):
        operands, token = (node.left, node.right), TOKENS[type(node.op)]
        text = any(isinstance(x, (ast.JoinedStr, ast.Tuple, ast.List)) or _is_string(x) for x in operands)
        if not text:
            start, end = self.between(token, *operands)
            self.replace(start, end, *OTHER[token])
            if token != "@":
                before = len(self.text[:start].rstrip())
                self.replace(before, self.end(node), "")
            if token in "+*&|":
                self.replace(self.start(node), len(self.text) - len(self.text[end:].lstrip()), "")
            if token == "-":
                self.replace(self.start(node), start, "")
        self.generic_visit(node)

    def visit_UnaryOp(self, node):
        start = self.start(node)
        self.replace(start, start + len(TOKENS[type(node.op)]), "")
        if isinstance(node.operand, ast.Attribute) and node.operand.attr == "inf":
            self.replace_node(node, "-1e4", "0.0")
        self.generic_visit(node)

    def visit_Compare(self, node):
        operands = [node.left, *node.comparators]
        for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
            token = TOKENS[type(op)]
            self.replace(*self.between(token, left, right), *OTHER[token])
        self.generic_visit(node)

    def visit_BoolOp(self, node):
        token = TOKENS[type(node.op)]
        places = [self.between(token, *pair) for pair in zip(node.values, node.values[1:], strict=False)]
        begin = self.start(node)
        for start, end in places:
            self.replace(start, end, *OTHER[token])
            self.replace(begin, end + 1, "")
            begin = end + 1
        self.replace(places[-1][0] - 1, self.end(node), "")
        self.generic_visit(node)

    def visit_IfExp(self, node):
        self.replace(self.between("if", node.body, node.test)[0] - 1, self.end(node), "")
        self.replace(self.start(node), self.between("else", node.test, node.orelse)[1] + 1, "")
        self.generic_visit(node)

    def visit_comprehension(self, node):
        for test in node.ifs:
            self.replace_node(test, "True")
        self.generic_visit(node)

    def visit_Constant(self, node):
        value = node.value
        if isinstance(value, bool):
            self.replace_node(node, str(not value))
        elif isinstance(value, int):
            self.replace_node(node, str(value + 1), str(value - 1) if value else "-1")
        elif isinstance(value, float):
            self.replace_node(node, repr(2 * value) if value else "1.0", "1.0")

    def visit_Attribute(self, node):
        if node.attr in ("T", "mT"):
            self.replace(self._dot(node), self.end(node), "")
        self.generic_visit(node)

    def visit_Slice(self, node):
        if node.lower:
            self.replace_node(node.lower, "")
            self._one_off(node.lower, " + 1")
        if node.upper:
            self.replace_node(node.upper, "")
            self._one_off(node.upper, " - 1")
        if node.step:
            self.replace(self.text.rindex(b":", self.start(node), self.start(node.step)), self.end(node), "")
        self.generic_visit(node)

    def visit_Call(self, node):
        function, name = node.func, _name(node.func)
        if name in SILENT:
            return
        method = isinstance(function, ast.Attribute) and _root(function) not in self.modules
        if method:
            self.replace(self._dot(function), self.end(node), "")
        elif node.args and not isinstance(node.args[0], ast.Starred):
            self.replace_node(node, self.segment(node.args[0]))
        if name in OTHER_FUNCTION and isinstance(function, ast.Attribute):
            self.replace(self.end(function) - len(name), self.end(function), OTHER_FUNCTION[name])
        if name == "where" and len(node.args) == 3:
            self.replace_node(node, *(self.segment(x) for x in node.args[1:]))
        if name == "range":
            step = self.segment(node.args[2]).decode() if len(node.args) == 3 else "1"
            self._one_off(node.args[min(1, len(node.args) - 1)], f" - {step}")
            if len(node.args) == 1:
                self.replace(self.start(node.args[0]), self.start(node.args[0]), "1, ")
            else:
                self._one_off(node.args[0], " + 1")
        arguments = sorted((*node.args, *node.keywords), key=self.start)
        for before, argument, after in zip([None, *arguments], arguments, [*arguments[1:], None], strict=False):
            if isinstance(argument, ast.keyword) and argument.arg:
                start = self.end(before) if before else self.start(argument)
                self.replace(start, self.start(after) if after and not before else self.end(argument), "")
        if name == "reshape" or name in LIKE:  # a negative size is any
            arguments = [x for x in node.args if name == "reshape" and not isinstance(x, ast.UnaryOp)]
            for argument in (function, *arguments):
                self.visit(argument)
        else:
            self.generic_visit(node)

    def _one_off(self, node: ast.AST, change: str) -> None:
        if not isinstance(node, (ast.Constant, ast.UnaryOp)):  # whose digits change anyway
            self.replace_node(node, self.segment(node) + change.encode())

    def _dot(self, node: ast.Attribute) -> int:
        return self.text.rindex(b".", self.end(node.value), self.end(node))


def _name(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None


def _is_call(node: ast.AST, *names: str) -> bool:
    return isinstance(node, ast.Call) and _name(node.func) in names


def _root(node: ast.AST) -> str | None:
    while isinstance(node, ast.Attribute):
        node = node.value
    return _name(node)


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)
