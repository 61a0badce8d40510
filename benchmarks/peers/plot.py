"""Results into `docs/peers.png`: requests a second of each server, and latency under open load."""

from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from benchmarks.peers.table import Results

_DOTS_PER_INCH: Final = 120
_OURS: Final = "#0b6e4f"
_THEIRS: Final = "#8a8f98"
_SHARES: Final = (50, 80, 95)


def plot(results: Results, file: Path) -> None:
    """Draw throughput, CPU time and latency of each server in its fastest setting."""
    rows = [row for row in results.best if results.median(row, "short", "closed-8", "per_s") is not None]
    rows.sort(key=lambda row: results.median(row, "short", "closed-8", "per_s") or 0.0)
    names = [f"{row['title']}, {row['precision']}" if not row["ours"] else row["title"] for row in rows]
    colours = [_OURS if row["ours"] else _THEIRS for row in rows]
    figure = Figure(figsize=(12, 1.6 + 0.4 * len(rows)), layout="constrained")
    speed, cpu, late = figure.subplots(1, 3, sharey=True, width_ratios=(1, 1, 1))
    places = range(len(rows))
    for axes, figure_name, title in (
        (speed, "per_s", "requests a second, 8 at once"),
        (cpu, "cpu_ms", "CPU time a request, ms"),
    ):
        found = [results.figure(row, "short", "closed-8", figure_name) for row in rows]
        medians = [f["median"] if f else 0.0 for f in found]
        below = [f["median"] - f["low"] if f else 0.0 for f in found]
        above = [f["high"] - f["median"] if f else 0.0 for f in found]
        axes.barh(places, medians, color=colours, xerr=[below, above], error_kw={"lw": 1})
        axes.set_title(title, fontsize=10)
        for place, value, error in zip(places, medians, above, strict=True):
            axes.annotate(f" {value:.4g}", (value + error, place), va="center", fontsize=8)
        axes.margins(x=0.15)
    for share, shade in zip(_SHARES, (0.35, 0.65, 1.0), strict=True):
        p99s = [results.median(row, "short", f"open-{share}", "p99_ms") or float("nan") for row in rows]
        late.scatter(p99s, places, c=colours, alpha=shade, label=f"{share} % of its saturation")
    late.set_xscale("log")
    late.set_title("99th percentile under open load, ms", fontsize=10)
    late.legend(fontsize=8)
    speed.set_yticks(places, names, fontsize=9)
    machine = results.content["machine"]
    figure.suptitle(
        f"Same weights, texts of some 32 tokens, {machine['processor']}, {machine['cores']} cores", fontsize=10
    )
    figure.savefig(file, dpi=_DOTS_PER_INCH)
