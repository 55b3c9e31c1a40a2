"""What Hypothesis draws for `test_array_semantics`: a list of arrays, and a tuple of what else an expression takes."""

import string

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

FLOATS = ("float64", "float32")
NUMBERS = (*FLOATS, "int64", "int32")
DTYPES = (*NUMBERS, "bool")
draws = st.composite


def shapes(min_dims=0, max_side=3, min_side=0):
    return hnp.array_shapes(min_dims=min_dims, max_dims=5, min_side=min_side, max_side=max_side)


@draws
def array(draw, shape, dtypes=FLOATS):
    """Normal numbers, or small whole ones, of which many are equal or zero; every other array has gaps in memory."""
    random = np.random.default_rng(draw(st.integers(0, 999)))
    dtype, whole, gaps = draw(st.sampled_from(dtypes)), draw(st.booleans()), draw(st.booleans()) and shape
    shape = (*shape[:-1], 2 * shape[-1]) if gaps else shape
    x = np.asarray(random.integers(-2, 3, shape) if whole else 2 * random.normal(size=shape)).astype(dtype)
    return x[..., ::2] if gaps else x


@draws
def one(draw, dtypes=FLOATS, min_dims=0):
    return [draw(array(draw(shapes(min_dims)), dtypes))], ()


@draws
def two(draw, dtypes=DTYPES, masked=False):
    """Arrays that broadcast to each other; and booleans that do."""
    found = draw(hnp.mutually_broadcastable_shapes(num_shapes=3, max_dims=5, min_side=0, max_side=3)).input_shapes
    return [draw(array(shape, dtypes)) for shape in found[:2]], (draw(hnp.arrays(bool, found[2])),) if masked else ()


@draws
def along(draw, min_dims=1, min_side=0, dtypes=FLOATS):
    """An array and an axis."""
    x = draw(array(draw(shapes(min_dims, min_side=min_side)), dtypes))
    return [x], (draw(st.integers(-x.ndim, x.ndim - 1)),)


@draws
def reduced(draw, dtypes=FLOATS, min_side=0):
    """An array, and (dim, keepdim): one axis, several, or all."""
    (x,), (dim,) = draw(along(1, min_side, dtypes))
    dim = draw(st.one_of(st.just(dim), hnp.valid_tuple_axes(x.ndim, min_size=1), st.none()))
    return [x], (dim, draw(st.booleans()))


@draws
def single(draw, min_side):
    """An array, and (dim, keepdim) with one axis."""
    x, dim = draw(along(1, min_side))
    return x, (*dim, draw(st.booleans()))


@draws
def indexed(draw, indices):
    x = draw(array(draw(shapes(1)), DTYPES))
    return [x], (draw(indices(x.shape)),)


def slices(shape):
    return hnp.basic_indices(shape, allow_newaxis=True)


@draws
def whole_numbers(draw, shape):
    """Whole numbers in arrays that broadcast to each other, single ones, and slices."""
    chosen = draw(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))

    def of(size):
        numbers = st.integers(-size, size - 1)
        return st.one_of(st.slices(size), *([numbers, hnp.arrays(np.int64, chosen, elements=numbers)] if size else []))

    return tuple(draw(of(size)) for size in shape[: draw(st.integers(1, len(shape)))])


def masks(shape):
    return st.integers(1, len(shape)).flatmap(lambda n: st.tuples(hnp.arrays(bool, shape[:n])))


@draws
def gathered(draw):
    """An array, an axis, and whole numbers, with as many axes, to take along it."""
    (x,), (dim,) = draw(along())
    shape = [draw(st.integers(0, size)) for size in x.shape]
    shape[dim] = draw(st.integers(0, 4)) if x.shape[dim] else 0
    places = hnp.arrays(np.int64, tuple(shape), elements=st.integers(0, max(x.shape[dim] - 1, 0)))
    return [x], (dim, draw(places))


@draws
def filled(draw):
    """An array, and booleans that broadcast to it."""
    x = draw(array(draw(shapes())))
    shape = tuple(draw(st.sampled_from((1, size))) for size in x.shape)
    return [x], (draw(hnp.arrays(bool, shape[draw(st.integers(0, x.ndim)) :])),)


@draws
def reshaped(draw):
    """An array, and another shape for its elements, one size of which may be -1."""
    x = draw(array(draw(shapes())))
    sizes = draw(st.permutations((*x.shape, 1, 1)))
    cut = draw(st.integers(1, len(sizes)))
    sizes = [int(np.prod(sizes[:cut])), *sizes[cut:]]
    if x.size and draw(st.booleans()):
        sizes[draw(st.integers(0, len(sizes) - 1))] = -1
    return [x], (tuple(sizes),)


@draws
def expanded(draw):
    """An array, a shape that it broadcasts to, and the same with -1 for some sizes that stay."""
    full = draw(shapes())
    small = tuple(draw(st.sampled_from((1, size))) for size in full)[draw(st.integers(0, len(full))) :]
    new = len(full) - len(small)
    given = [-1 if i >= new and small[i - new] == n and draw(st.booleans()) else n for i, n in enumerate(full)]
    return [draw(array(small))], (full, tuple(given))


@draws
def squeezed(draw):
    """An array, and some of its axes of size one."""
    x = draw(array(draw(shapes(max_side=2))))
    return [x], (tuple(i - draw(st.sampled_from((0, x.ndim))) for i, n in enumerate(x.shape) if n == 1),)


@draws
def permuted(draw):
    x = draw(array(draw(shapes())))
    return [x], (tuple(i - draw(st.sampled_from((0, x.ndim))) for i in draw(st.permutations(range(x.ndim)))),)


@draws
def joined(draw, alike=False):
    """Arrays, of several dtypes, that differ in shape along one axis or not at all; and the axis."""
    shape = draw(hnp.array_shapes(min_dims=0 if alike else 1, max_dims=4, min_side=0, max_side=3))
    dim = draw(st.integers(-len(shape) - alike, len(shape) - 1 + alike))
    found = [list(shape) for _ in range(draw(st.integers(1, 3)))]
    for each in found if not alike else ():
        each[dim] = draw(st.integers(0, 3))
    return [draw(array(tuple(each), DTYPES)) for each in found], (dim,)


@draws
def multiplied(draw):
    """Arrays of one dtype that have a matrix product."""
    found = draw(hnp.mutually_broadcastable_shapes(signature="(n?,k),(k,m?)->(n?,m?)", max_dims=3, min_side=0))
    dtype = draw(st.sampled_from(FLOATS))
    return [draw(array(shape, [dtype])) for shape in found.input_shapes], ()


@draws
def sized(draw, letters, *ids, dtypes=FLOATS):
    """Arrays of one dtype with shapes such as "btc vc": each letter is a size, 0 too where it is small; and for each of
    `ids`, such as "bt<V", whole numbers of that shape below that size."""
    used = sorted({*letters, *"".join(ids)} & {*string.ascii_letters})
    size = {x: draw(st.integers(x.isupper(), 4)) for x in used}
    dtype = draw(st.sampled_from(dtypes))
    arrays = [draw(array(tuple(size[x] for x in shape), [dtype])) for shape in letters.split()]
    whole = []
    for shape, _, most in (each.partition("<") for each in ids):
        below = st.integers(0, size[most] - 1)
        whole.append(draw(hnp.arrays(np.int64, tuple(size[x] for x in shape), elements=below)))
    return arrays, tuple(whole)
