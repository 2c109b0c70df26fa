"""The evaluation of the public reference in PyTorch: all scores, ranks by sorting, accuracy by argmax."""

from collections.abc import Sequence

import torch
from torch import Tensor

KS = (1, 5, 10)


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Percentage of rows `(n, classes)` whose best class is theirs."""
    return 100 * float((scores.argmax(dim=1) == labels).double().mean())


def ranks_by_sorting(scores: Tensor) -> Tensor:
    """The place of each row's own column in the order of the row's scores `(n, n)`, from 0."""
    order = torch.argsort(scores, dim=1, descending=True)
    own = torch.arange(len(scores), device=scores.device)
    return (order == own[:, None]).to(torch.uint8).argmax(dim=1)


def recalls(scores: Tensor) -> list[float]:
    """Recall at 1, 5 and 10 in percent, the mean of both directions; only the diagonal is correct."""
    ranks = torch.cat([ranks_by_sorting(scores), ranks_by_sorting(scores.T)])
    return [100 * float((ranks < k).double().mean()) for k in KS]


def retrieval(scores: Tensor, galleries: Tensor | None) -> dict[str, list[float]]:
    """Recalls over all rows and, as published, their means over random galleries `(galleries, size)`."""
    full = recalls(scores)
    if galleries is None:
        return {"full": full, "galleries": full}
    drawn: Sequence[list[float]] = [recalls(scores[rows[:, None], rows]) for rows in galleries]
    return {"full": full, "galleries": [sum(values) / len(drawn) for values in zip(*drawn, strict=True)]}
