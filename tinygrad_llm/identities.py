"""Whether an expression of SymPy's is zero: what a proof comes down to."""

import math

from tinygrad_llm.errors import UserError

try:
    import sympy
except ModuleNotFoundError as error:
    raise UserError("proofs are SymPy's, which is not installed: pip install 'tinygrad-llm[prove]'") from error


def vanishes(expression: sympy.Expr) -> bool:
    """Whether it is zero for all numbers: True is a proof.

    It is written as a rational function of generators: the symbols, pi, and what is no rational function of them, such
    as log x, tanh u, e^m, x^m for a monomial m of the exponent (e^(a+b) = e^a e^b), and a root r of b with r^n = b,
    by which r^n is replaced. Its numerator is then multiplied out. Generators may be related in ways that this does not
    know (sin^2 + cos^2 = 1), so False says nothing.
    """
    generators: dict = {}
    exponents: dict[sympy.Dummy, list] = {}  # generator of a power -> those with which it stands
    bases: dict[sympy.Dummy, sympy.Expr] = {}  # generator of a number or expression that stands with fractions alone

    def generator(key) -> sympy.Dummy:
        return generators.setdefault(key, sympy.Dummy(f"g{len(generators)}", positive=True))

    def rational(e: sympy.Expr) -> sympy.Expr:
        if e.is_Rational or e.is_Symbol:
            return e
        if e.is_Add or e.is_Mul:
            return e.func(*map(rational, e.args))
        if e.is_Pow:
            return rational(e.base) ** e.exp if e.exp.is_Integer else power(e.base, e.exp)
        if isinstance(e, sympy.exp) and e.args:
            return power(sympy.E, e.args[0])
        return generator(e.func(*map(sympy.expand, e.args)) if e.args else e)

    def power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
        factors = []
        for term in sympy.Add.make_args(sympy.expand(exponent)):
            c, m = term.as_coeff_Mul()  # a rational number, a monomial
            if base is sympy.E and isinstance(m, sympy.log):
                factors.append(power(m.args[0], c))
            elif m == 1 and c.is_Integer:
                factors.append(rational(base) ** c)
            else:
                g = generator((sympy.expand(base), m))
                if m == 1:
                    bases[g] = rational(sympy.expand(base))
                exponents.setdefault(g, []).append(c)
                factors.append(g**c)
        return sympy.Mul(*factors)

    expression = rational(expression)
    roots = {g: sympy.Dummy(g.name, positive=True) for g in exponents}
    degrees = {g: math.lcm(*(int(c.q) for c in exponents[g])) for g in exponents}
    whole = {g: roots[g] ** degrees[g] for g in exponents}
    expression = expression.xreplace(whole)
    relations = [(roots[g], degrees[g], base.xreplace(whole)) for g, base in bases.items()]  # r^n = base
    names = sorted(expression.free_symbols.union(*({r} | base.free_symbols for r, _, base in relations)), key=str)
    if not names:
        return expression == 0
    field = sympy.polys.fields.field(names, sympy.QQ)[0]
    relations = [(names.index(r), n, field.from_expr(base)) for r, n, base in relations]

    def zero(numerator, relations) -> bool:
        """Of a polynomial, when r^n is replaced by its base: whether every power of r below the n-th vanishes."""
        if not numerator or not relations:
            return not numerator
        *others, (position, n, base) = relations
        parts = [field.zero] * n
        for monomial, coefficient in numerator.terms():
            times, rest = divmod(monomial[position], n)
            monomial = (*monomial[:position], 0, *monomial[position + 1 :])
            parts[rest] += field(field.ring.term_new(monomial, coefficient)) * base**times
        return all(zero(part.numer, others) for part in parts)

    fraction = field.from_expr(expression)
    return zero(fraction.numer, relations) and not zero(fraction.denom, relations)
