import io

from rich.console import Console

from benchmarks.memory_bytes import bytes_of, heads_of, memory_of, report

WIDTHS, PAIRS = {"vision": 8, "text": 8, "audio": 8}, [("vision", "text"), ("text", "audio")]
SQUARE, MEMORY = 4 * 8 * 8, 4 * (8 * 8 + 8 + 1)


def size(variant: str, seeds: int) -> int:
    return bytes_of(memory_of(variant, heads_of(WIDTHS, seeds), PAIRS))


def test_bytes_are_those_counted_by_hand() -> None:
    for seeds in (1, 10):
        assert size("fresh", seeds) == 2 * len(PAIRS) * MEMORY
        assert size("pooled", seeds) == len(WIDTHS) * MEMORY + 4 * len(PAIRS)
        assert size("stale", seeds) == len(WIDTHS) * MEMORY * (1 + seeds)
        assert size("released", seeds) == len(WIDTHS) * SQUARE * (1 + seeds) + 4


def test_the_table_has_every_variant() -> None:
    output = io.StringIO()
    report(Console(file=output, width=100), seeds=(1,))
    for word in ("fresh", "pooled", "stale", "released", "the heads", "paper, 1 seed", "8 pairs"):
        assert word in output.getvalue()
