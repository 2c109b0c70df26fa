"""Which frames of a video stand for all of it."""


def middles(length: int, count: int) -> list[int]:
    """`count` indices below `length`, each in the middle of one of `count` equal stretches; repeated if there are few.

    >>> middles(12, 3), middles(2, 4)
    ([2, 6, 10], [0, 0, 1, 1])
    """
    return [(2 * number + 1) * length // (2 * count) for number in range(count)]
