"""Losses in PyTorch."""

import numpy as np
import torch.nn.functional as F

from tinygrad_llm.reference.cases import case, counts, integers, normal, oracle, positive


def _some_ignored(rows, classes):
    """Targets of which about a third are -100, and the first is not."""

    def make(random):
        targets = random.integers(0, classes, size=rows)
        targets[1:][random.random(rows - 1) < 0.3] = -100
        return targets

    return make


def _far_apart(rows, classes):
    """Logits whose rows are far apart, and the last of each row is -infinity."""

    def make(random):
        logits = normal(rows, classes)(random) + 512.0 * np.arange(rows)[:, None]
        logits[:, -1] = -np.inf
        return logits

    return make


def _first_infinite(rows, classes):
    """Logits of which the first third are -infinity."""

    def make(random):
        logits = normal(rows, classes)(random)
        logits[:, : classes // 3] = -np.inf
        return logits

    return make


def _distributions(rows, classes):
    return lambda random: random.dirichlet(np.ones(classes), size=rows).astype(np.float32).astype(np.float64)


@oracle(
    case(normal(7, 33), integers(7, high=33)),
    case(normal(97, 7, scale=5.0), _some_ignored(97, 7)),
    case(normal(33, 97), _some_ignored(33, 97), label_smoothing=0.1, weight=positive(97)),
    case(normal(33, 97), _some_ignored(33, 97), label_smoothing=0.1),
    case(normal(7, 3), integers(7, high=3), reduction="none", weight=positive(3)),
    case(normal(7, 3), integers(7, high=3), reduction="sum", ignore_index=1),
    case(normal(3, 1023, scale=30.0), integers(3, high=1023)),
    case(normal(3, 1023, scale=1000.0), integers(3, high=1023)),  # a part of the row would make another's e^x infinite
    case(normal(7, 3), integers(7, high=3), reduction="none"),
    case(lambda random: normal(7, 33)(random) - 30000, integers(7, high=33)),  # all far below 0
    case(_first_infinite(7, 33), integers(7, low=11, high=33)),
    case(normal(1, 1), integers(1, high=1)),
    case(normal(3, 1), np.array([0, -100, 0])),
    case(_far_apart(3, 7), integers(3, high=6)),
    case(normal(7, 33), targets=_distributions(7, 33), weight=positive(33), label_smoothing=0.1),
    case(normal(0, 3), targets=_distributions(0, 3)),
    case(normal(3, 7), targets=_distributions(3, 7)),
    case(normal(3, 7), np.full(3, -100)),  # no row counts
    case(normal(3, 1023), integers(3, high=1023)),  # every part of a long row has its share
)
def cross_entropy(logits, targets, weight=None, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    return F.cross_entropy(
        logits, targets, weight, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )


@oracle(
    case(normal(7, 33), integers(7, high=33)),
    case(normal(97, 7), _some_ignored(97, 7), weight=positive(7)),
    case(normal(7, 3), integers(7, high=3), reduction="none", ignore_index=1),
    case(normal(7, 3), integers(7, high=3), reduction="sum", weight=positive(3)),
    case(normal(3, 1), np.array([0, -100, 0])),
    case(normal(3, 7), np.full(3, -100)),
)
def nll_loss(x, targets, weight=None, ignore_index=-100, reduction="mean"):
    return F.nll_loss(x, targets, weight, ignore_index=ignore_index, reduction=reduction)


@oracle(
    case(normal(7, 33), normal(97, 33), integers(7, high=97)),
    case(normal(700, 7), normal(33, 7), _some_ignored(700, 33)),
    case(normal(33, 7), normal(3, 7), _some_ignored(33, 3), label_smoothing=0.1),
    case(normal(33, 7), normal(3, 7), integers(33, high=3), reduction="none"),
    case(normal(33, 7), normal(3, 7), integers(33, high=3), reduction="sum", ignore_index=2),
    case(normal(3, 7, scale=256.0), normal(7, 7, scale=4.0), integers(3, high=7)),  # e^x is infinite
    case(normal(3, 7), normal(7, 7), np.full(3, -100)),  # no row counts
)
def linear_cross_entropy(h, weight, targets, ignore_index=-100, reduction="mean", label_smoothing=0.0):
    return F.cross_entropy(
        h @ weight.T, targets, ignore_index=ignore_index, reduction=reduction, label_smoothing=label_smoothing
    )


@oracle(
    case(normal(7, 33), normal(7, 33)),
    case(normal(7, 3), normal(3), reduction="none"),
    case(normal(1023), normal(1023), reduction="sum"),
    case(normal(3), normal(7, 3)),
)
def mse_loss(x, target, reduction="mean"):
    x, target = (y.expand(max(x.shape, target.shape)) for y in (x, target))
    return F.mse_loss(x, target, reduction=reduction)


def _log_probabilities(*shape):
    return lambda random: np.log(random.dirichlet(np.ones(shape[-1]), size=shape[0]) + 1e-3).astype("f").astype("d")


@oracle(
    case(_log_probabilities(7, 33), positive(7, 33)),
    case(_log_probabilities(7, 33), positive(7, 33), reduction="batchmean"),
    case(_log_probabilities(7, 33), target=counts(7, 33, high=3)),  # 0 log 0 is 0
    case(_log_probabilities(33, 7), _log_probabilities(33, 7), reduction="sum", log_target=True),
    case(_log_probabilities(33, 7), _log_probabilities(33, 7), reduction="none", log_target=True),
)
def kl_div(x, target, reduction="mean", log_target=False):
    return F.kl_div(x, target, reduction=reduction, log_target=log_target)


@oracle(
    case(normal(7, 33), _distributions(7, 33)),
    case(normal(1, 97, scale=30.0), _distributions(1, 97), reduction="sum"),
    case(normal(7, 3), _distributions(7, 3), reduction="none", weight=positive(7, 3), pos_weight=positive(3)),
)
def binary_cross_entropy_with_logits(x, target, weight=None, pos_weight=None, reduction="mean"):
    return F.binary_cross_entropy_with_logits(x, target, weight, reduction=reduction, pos_weight=pos_weight)
