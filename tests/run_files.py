"""What a run left in its folder."""

import json
from pathlib import Path


def bits(workdir: Path) -> dict[str, bytes]:
    """Everything a run measured."""
    files = [*workdir.glob("*_matrix.npy"), *workdir.glob("matrices/*.npy"), workdir / "summary.json"]
    return {str(file.relative_to(workdir)): file.read_bytes() for file in files}


def events(workdir: Path) -> list[dict]:
    """The lines of `metrics.jsonl`."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses(workdir: Path) -> list[list[list[float]]]:
    """`[step, seed, epoch]`."""
    return [event["losses"] for event in events(workdir) if event["event"] == "step"]
