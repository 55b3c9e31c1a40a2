"""Which layer of one model is which of the other, found from names, shapes and order.

Names are compared without their prefixes ("transformer.", "model."); the numbers in them must agree, the rest be as
alike as possible. Known are GPT-2's `Conv1D`, whose weight is the transpose of a Linear's, and query, key and value in
one layer here and in three there. Modules without parameters of their own follow from the layers below them.
"""

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tinygrad_llm.errors import UserError
from tinygrad_llm.locator.traces import Key, Trace, host, named_modules
from tinygrad_llm.nn import Module


@dataclass(eq=False)
class Layer:
    """A module with parameters of its own, by their names in it; `transposed` if its matrix is (in, out)."""

    name: str
    parameters: dict[str, object]
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """That of its first parameter, its weight, as (out, in)."""
        shape = tuple(next(iter(self.parameters.values())).shape)
        return shape[::-1] if self.transposed else shape

    @property
    def numbers(self) -> list[str]:
        return re.findall(r"\d+", self.name)

    def array(self, name: str) -> np.ndarray | None:
        return self.matrix(host(self.parameters[name])) if name in self.parameters else None

    def matrix(self, x: np.ndarray) -> np.ndarray:
        return x.T if self.transposed else x


def layers(model) -> list[Layer]:
    """In the order in which the model was built; one that shares all its parameters with another is left out."""
    found, seen = [], set()
    for name, module in modules_of(model):
        if isinstance(module, Module):
            own = {key: p for key, p in module.named_parameters() if "." not in key}
        else:
            own = {key: p for key, p in module.named_parameters(recurse=False)}
        if any(id(p) not in seen for p in own.values()):
            found.append(Layer(name, own, type(module).__name__ == "Conv1D"))
        seen |= {id(p) for p in own.values()}
    return found


@dataclass
class Part:
    """One of their layers, or the rows of it, that belong to one of ours."""

    layer: Layer
    rows: slice = field(default_factory=lambda: slice(None))

    def full(self, parameter: str) -> str:
        return f"{self.layer.name}.{parameter}".lstrip(".")


class Pairing:
    """For each of our layers, by name, the parts of theirs that it is; `modules` for those without parameters."""

    def __init__(self, ours, theirs, mapping: Mapping[str, str] | None = None):
        self.ours, self.theirs = layers(ours), layers(theirs)
        self.parts: dict[str, list[Part]] = {}
        self.left, self.right = list(self.ours), list(self.theirs)
        self._given(mapping or {})
        self._same_names()
        self._fused()
        self._alike()
        if self.left or self.right:
            sides = [" and ".join(f"{x.name} {x.shape}" for x in side[:3]) for side in (self.left, self.right)]
            raise UserError(
                f"cannot pair {sides[0] or 'anything'} of ours with {sides[1] or 'anything'} of theirs: "
                f"give mapping={{'{(self.left or self.ours)[0].name}': 'its name there'}}, several with commas between"
            )
        self.modules = self._containers(ours, theirs)

    def _pair(self, ours: Layer, theirs: list[Layer]) -> None:
        for layer in theirs:
            layer.transposed = layer.transposed or (layer.shape != ours.shape and layer.shape[::-1] == ours.shape)
            self.right.remove(layer)
        self.parts[ours.name] = [Part(layer) for layer in theirs]
        self.left.remove(ours)

    def _given(self, mapping: Mapping[str, str]) -> None:
        ours, theirs = ({layer.name: layer for layer in side} for side in (self.ours, self.theirs))
        for name, others in mapping.items():
            names = [other.strip() for other in others.split(",")]
            unknown = [n for n in (name,) if n not in ours] + [n for n in names if n not in theirs]
            if unknown:
                raise UserError(f"mapping: no layer with parameters is called {unknown[0]!r}")
            self._pair(ours[name], [theirs[n] for n in names])

    def _same_names(self) -> None:
        for ours in list(self.left):
            same = [x for x in self.right if x.name == ours.name and _fits(ours, x)]
            same = same or [x for x in self.right if _ends_alike(ours.name, x.name) and _fits(ours, x)]
            if len(same) == 1:
                self._pair(ours, same)

    def _fused(self) -> None:
        """One layer whose rows are those of three neighbors: query, key and value."""
        for ours in list(self.left):
            if three := _three(ours, self.right):
                self._pair(ours, three)
        for theirs in list(self.right):
            if three := _three(theirs, self.left):
                start = 0
                for layer in three:
                    rows = slice(start, start := start + layer.shape[0])
                    self.parts[layer.name] = [Part(theirs, rows)]
                    self.left.remove(layer)
                self.right.remove(theirs)

    def _alike(self) -> None:
        """The rest: of those with the same numbers, the most alike first, and before what only fits transposed; then
        in order, of one shape."""
        left, right = list(self.left), list(self.right)
        scores = [
            (a.shape != b.shape, -difflib.SequenceMatcher(None, a.name, b.name).ratio(), i, j)
            for i, a in enumerate(left)
            for j, b in enumerate(right)
            if a.numbers == b.numbers and _fits(a, b)
        ]
        for *_, i, j in sorted(scores):
            if left[i] in self.left and right[j] in self.right:
                self._pair(left[i], [right[j]])
        for ours in list(self.left):
            if same := [x for x in self.right if _fits(ours, x)]:
                self._pair(ours, same[:1])

    def _containers(self, ours, theirs) -> dict[str, str]:
        """Modules above the same layers are the same, as are those of one name right below them."""
        ids = {layer.name: i for i, layer in enumerate(self.ours)}
        theirs_ids: dict[str, set[int]] = {layer.name: set() for layer in self.theirs}
        for name, parts in self.parts.items():
            for part in parts:
                theirs_ids[part.layer.name].add(ids[name])
        own = {name: frozenset(i for layer, i in ids.items() if _below(layer, name)) for name, _ in modules_of(ours)}
        other = [
            (name, frozenset(i for layer, found in theirs_ids.items() if _below(layer, name) for i in found))
            for name, _ in modules_of(theirs)
        ]
        pairs = {}
        for name, below in own.items():
            if name in self.parts or not name:
                continue
            if below:
                same = [n for n, found in other if found == below and n not in theirs_ids]
                same = [n for n in same if _last(n) == _last(name)] or same
            else:
                parent = pairs.get(name.rpartition(".")[0])
                same = [n for n, _ in other if parent and n == f"{parent}.{_last(name)}"]
            if same:
                pairs[name] = same[0]
        return pairs

    def find(self, key: Key, trace: Trace, gradients: bool = False) -> np.ndarray | None:
        """What their trace has where ours has this key; None if it has nothing."""
        name, what, call = key
        arrays = trace.backward if gradients else trace.forward
        if what == "gradient":
            layer, _, parameter = name.rpartition(".")
            return self.join(layer, lambda part: _oriented(part, arrays.get((part.full(parameter), what, call))))
        if name in self.parts:
            parts = self.parts[name]
            found = [arrays.get((part.layer.name, what, call)) for part in parts]
            if any(x is None for x in found):
                return None
            if what == "input" or (len(parts) == 1 and parts[0].rows == slice(None)):
                return found[0]
            return np.concatenate([x[..., part.rows] for x, part in zip(found, parts, strict=True)], -1)
        module, slash, operation = name.partition("/")
        if slash:  # only ours has operations
            parts = self.parts.get(module)
            module = parts[0].layer.name if parts and len(parts) == 1 else self.modules.get(module, module)
            return arrays.get((f"{module}/{operation}", what, call))
        return arrays.get((self.modules.get(name, name), what, call))

    def parameter(self, layer: str, name: str) -> np.ndarray | None:
        """Their values of one of our parameters, in our layout."""
        return self.join(layer, lambda part: part.layer.array(name))

    def alone(self) -> list:
        """The parameters that only one of the models has."""
        pairs = [(layer.parameters, part.layer.parameters) for layer in self.ours for part in self.parts[layer.name]]
        return [p for pair in pairs for a, b in (pair, pair[::-1]) for name, p in a.items() if name not in b]

    def join(self, layer: str, array_of) -> np.ndarray | None:
        found = []
        for part in self.parts.get(layer, ()):
            x = array_of(part)
            if x is None:
                return None
            found.append(x[part.rows] if x.ndim else x)
        return np.concatenate(found) if found and found[0].ndim else (found or [None])[0]


def modules_of(model) -> list:
    return list(named_modules(model) if isinstance(model, Module) else model.named_modules())


def _oriented(part: Part, x: np.ndarray | None) -> np.ndarray | None:
    return None if x is None else part.layer.matrix(x)


def _ends_alike(a: str, b: str) -> bool:
    return a.endswith(f".{b}") or b.endswith(f".{a}")


def _fits(a: Layer, b: Layer) -> bool:
    return a.shape == b.shape or (len(a.shape) == 2 and a.shape == b.shape[::-1])


def _three(one: Layer, others: list[Layer]) -> list[Layer]:
    """Three neighbors with the numbers of `one` that together have its rows; those called q, k, v if there are some."""
    near = [x for x in others if x.numbers == one.numbers and x.shape[1:] == one.shape[1:]]
    threes = [near[i : i + 3] for i in range(len(near) - 2)]
    fitting = [three for three in threes if sum(x.shape[0] for x in three) == one.shape[0] and len(one.shape) == 2]
    named = [three for three in fitting if [_last(x.name)[0] for x in three] == list("qkv")]
    return (named or fitting or [[]])[0]


def _below(layer: str, module: str) -> bool:
    return not module or layer == module or layer.startswith(f"{module}.")


def _last(name: str) -> str:
    return name.rpartition(".")[2]
