"""ConSE: puts what a classifier sees into the space of a text encoder, without any training.

Norouzi et al., "Zero-Shot Learning by Convex Combination of Semantic Embeddings", ICLR 2014, arXiv:1312.5650.
"""

import numpy as np
from jaxtyping import Float, Int

TOP_CLASSES = 10


def top_classes(
    probabilities: Float[np.ndarray, "n classes"], count: int = TOP_CLASSES
) -> Int[np.ndarray, "n {count}"]:
    """The most probable classes, best first; of equally probable ones the first in the list of classes.

    >>> top_classes(np.array([[0.1, 0.4, 0.4, 0.1]]), 3)
    array([[1, 2, 0]])
    """
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]


def conse(
    probabilities: Float[np.ndarray, "n classes"],
    class_embeddings: Float[np.ndarray, "classes dim"],
    count: int = TOP_CLASSES,
) -> Float[np.ndarray, "n dim"]:
    """The mean of the embeddings of the `count` most probable classes' names, weighted by probability.

    The probabilities need not sum to 1, as the scores of a tagger do not; the result has unit length.

    >>> conse(np.array([[0.4, 0.3, 0.1]]), np.array([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), count=2)
    array([[0.8, 0.6]])
    """
    top = top_classes(probabilities, count)
    weights = np.take_along_axis(probabilities, top, axis=1)
    mean = np.einsum("nk,nkd->nd", weights, class_embeddings[top])
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))
