"""Results into tables: one on the terminal, more in Markdown, with what they were measured on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from rich.table import Table

Row = Mapping[str, Any]

_NONE: Final = "-"


class Results:
    """The content of `peers.json`, looked up by peer, setting, corpus and load."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        self._samples = {(s["peer"], s["setting"], s["corpus"], s["load"]): s for s in content["samples"]}

    def figure(self, row: Row, corpus: str, load: str, name: str) -> Mapping[str, float] | None:
        """Return median, low and high of a figure; None where it was not measured."""
        found = self._samples.get((row["name"], row["setting"], corpus, load))
        return None if found is None else found[name]

    def median(self, row: Row, corpus: str, load: str, name: str) -> float | None:
        """Return the median of a figure; None where it was not measured."""
        found = self.figure(row, corpus, load, name)
        return None if found is None else found["median"]

    @property
    def rows(self) -> list[Row]:
        """Peers that ran, each in each of its settings, in the order of the run."""
        return [row for row in self.content["peers"] if row.get("problem") is None]

    @property
    def best(self) -> list[Row]:
        """Peers that ran, each in its fastest setting."""
        return [row for row in self.rows if row["fastest"]]

    @property
    def missing(self) -> list[Row]:
        """Peers that did not run, with the problem."""
        return [row for row in self.content["peers"] if row.get("problem") is not None]


def terminal_table(results: Results) -> Table:
    """Return the one table that is printed."""
    head = ["server", "", "setting", "req/s 1", "req/s 8", "ms CPU", "p50 ms", "p99 ms", "lists: texts/s", "mixed: req/s", "80 %: p50/p99", "differs"]  # fmt: skip
    table = Table(*head)
    for row in results.best:
        table.add_row(*_cells(results, row), style="bold" if row["ours"] else None)
    for row in results.missing:
        table.add_row(row["title"], row["precision"], row["setting"], row["problem"], style="dim")
    return table


def markdown(results: Results) -> str:
    """Return all of it as Markdown."""
    content = results.content
    machine = content["machine"]
    parts = [
        "# Lifeguard beside its peers",
        (
            f"`make bench`, {content['measured_at']}: {machine['processor']} (family {machine['family']}, model "
            f"{machine['model']}; {', '.join(machine['flags'])}), {machine['cores']} cores, {machine['memory_gb']} GB, Linux "
            f"{machine['system']}, Python {machine['python']}, commit {machine['commit']}, load before it "
            f"{machine['load_average_before']}. Model {content['model']['version']} ({content['model']['backbone']}), the same "
            f"weights for all (read back from the export, {content['model']['difference']:.1g} logits apart at most). "
            f"{content['repeats']} repeats of {content['seconds']} s, interleaved; medians, in brackets the least and the "
            "greatest. The load generator shares the cores; its CPU time stands beside."
        ),
        "## Requests a second, 8 at once, some 32 tokens, against the best peer",
        lines(
            ["guard", "its artefact", "best peer", "ratio"],
            ([r["guard"], r["artefact"], r["rival"], f"{r['ratio']:.2f}"] for r in ratios(results)),
        ),
        "## Closed loop, some 32 tokens",
        _closed(results, "short"),
        "## Closed loop, 8 to 256 tokens, log-normal",
        _closed(results, "mixed"),
        "## Several texts in one request",
        _lists(results),
        "## Open loop, some 32 tokens",
        _open(results, "short"),
        "## Open loop, 8 to 256 tokens",
        _open(results, "mixed"),
        "## The limit: the engine alone, in process, without tokenizer and HTTP",
        _limits(content["engines"]),
        "## What the guard keeps of it",
        _efficiency(content["efficiency"]),
        "## Every setting, 8 at once, some 32 tokens",
        _settings(results),
        "## Same verdicts",
        _verdicts(results),
        "## Share of texts flagged, beside keyword lists",
        _quality(content["quality"]),
        "## Versions",
        _versions(results),
    ]
    if results.missing:
        told = [[row["title"], row["setting"], row["problem"]] for row in results.missing]
        parts += ["## What did not run", lines(["server", "setting", "problem"], told)]
    return "\n\n".join(parts) + "\n"


def lines(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    told = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in told)


def spread(found: Mapping[str, float] | None, digits: int = 1) -> str:
    """Return a median with its least and greatest."""
    if found is None:
        return _NONE
    return f"{found['median']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def plain(value: float | None, digits: int = 1) -> str:
    """Return a number, or a dash for none."""
    return _NONE if value is None else f"{value:.{digits}f}"


def _cells(results: Results, row: Row) -> list[str]:
    def told(corpus: str, load: str, name: str, digits: int = 1) -> str:
        return plain(results.median(row, corpus, load, name), digits)

    at_80 = f"{told('short', 'open-80', 'p50_ms')}/{told('short', 'open-80', 'p99_ms')}"
    return [
        row["title"],
        row["precision"],
        row["setting"],
        told("short", "closed-1", "per_s", 0),
        told("short", "closed-8", "per_s", 0),
        told("short", "closed-8", "cpu_ms", 2),
        told("short", "closed-8", "p50_ms"),
        told("short", "closed-8", "p99_ms"),
        told("short", "lists-32", "per_s", 0),
        told("mixed", "closed-8", "per_s", 0),
        at_80 if results.median(row, "short", "open-80", "p50_ms") is not None else _NONE,
        f"{row['verdicts']['differ']} of {row['verdicts']['texts']}",
    ]


def ratios(results: Results) -> list[dict[str, Any]]:
    """Return requests a second with eight at once, some 32 tokens: each of our guards against the best peer it may face.

    The fp32 guard faces the best fp32 peer, the other the best of any precision.
    """
    found = []
    rows = [row for row in results.best if results.median(row, "short", "closed-8", "per_s") is not None]

    def speed(row: Row) -> float:
        return results.median(row, "short", "closed-8", "per_s") or 0.0

    for ours in (row for row in rows if row["ours"]):
        rivals = [
            row for row in rows if not row["ours"] and (ours["precision"] != "fp32" or row["precision"] == "fp32")
        ]
        if rivals:
            rival = max(rivals, key=speed)
            found.append(
                {
                    "guard": ours["title"],
                    "artefact": ours["artefact"],
                    "rival": f"{rival['title']}, {rival['precision']}, {rival['setting']}",
                    "ratio": round(speed(ours) / speed(rival), 2),
                }
            )
    return found


def _closed(results: Results, corpus: str) -> str:
    head = ["server", "precision", "setting"]
    for at_once in (1, 8, 32):
        head += [f"req/s, {at_once} at once", "CPU ms", "p50 ms", "p99 ms"]
    rows = []
    for row in results.best:
        cells = [row["title"], row["precision"], row["setting"]]
        for at_once in (1, 8, 32):
            load = f"closed-{at_once}"
            cells += [
                spread(results.figure(row, corpus, load, "per_s"), 0),
                spread(results.figure(row, corpus, load, "cpu_ms"), 2),
                plain(results.median(row, corpus, load, "p50_ms")),
                plain(results.median(row, corpus, load, "p99_ms")),
            ]
        rows.append(cells)
    return lines(head, rows)


def _lists(results: Results) -> str:
    head = ["server", "precision", "32 tokens: texts/s", "CPU ms a text", "mixed: texts/s", "CPU ms a text"]
    rows = []
    for row in results.best:
        cells = [row["title"], row["precision"]]
        for corpus in ("short", "mixed"):
            cells += [
                spread(results.figure(row, corpus, "lists-32", "per_s"), 0),
                spread(results.figure(row, corpus, "lists-32", "cpu_ms"), 2),
            ]
        rows.append(cells)
    return lines(head, rows)


def _open(results: Results, corpus: str) -> str:
    head = ["server", "precision"]
    for share in (50, 80, 95):
        head += [f"{share} % of saturation: req/s", "p50 ms", "p99 ms", "failed"]
    rows = []
    for row in results.best:
        cells = [row["title"], row["precision"]]
        for share in (50, 80, 95):
            load = f"open-{share}"
            cells += [
                plain(results.median(row, corpus, load, "per_s"), 0),
                spread(results.figure(row, corpus, load, "p50_ms")),
                spread(results.figure(row, corpus, load, "p99_ms")),
                plain(results.median(row, corpus, load, "failed"), 0),
            ]
        rows.append(cells)
    return lines(head, rows)


def _limits(engines: Sequence[Row]) -> str:
    head = ["engine", "version", "corpus", "texts a run", "texts/s", "CPU ms a text"]
    return lines(
        head,
        (
            [e["name"], e["version"], e["corpus"], str(e["batch"]), spread(e["per_s"], 0), spread(e["cpu_ms"], 3)]
            for e in engines
        ),
    )


def _efficiency(rows: Sequence[Row]) -> str:
    head = ["guard", "corpus", "load", "engine", "engine's CPU ms", "guard's CPU ms", "kept"]
    return lines(
        head,
        (
            [
                *(e["guard"], e["corpus"], e["load"], e["engine"]),
                *(f"{e['engine_cpu_ms']:.3f}", f"{e['guard_cpu_ms']:.3f}", f"{e['kept']:.2f}"),
            ]
            for e in rows
        ),
    )


def _settings(results: Results) -> str:
    head = ["server", "precision", "setting", "req/s", "CPU ms", "p50 ms", "p99 ms", "load generator's CPU ms", "MB"]
    rows = [
        [
            *(row["title"], row["precision"], row["setting"]),
            spread(results.figure(row, "short", load, "per_s"), 0),
            spread(results.figure(row, "short", load, "cpu_ms"), 2),
            plain(results.median(row, "short", load, "p50_ms")),
            plain(results.median(row, "short", load, "p99_ms")),
            plain(results.median(row, "short", load, "generator_cpu_ms"), 3),
            plain(row["memory_mb"], 0),
        ]
        for row in results.rows
        for load in ("screen-8" if results.figure(row, "short", "screen-8", "per_s") else "closed-8",)
    ]
    return lines(head, rows)


def _verdicts(results: Results) -> str:
    head = ["server", "precision", "setting", "texts", "harmful at 0.5 or not: differs", "largest difference of scores"]
    rows = []
    for row in results.rows:
        verdicts = row["verdicts"]
        apart = verdicts["largest_difference"]
        told = "it tells none" if apart is None else f"{apart:.1g}"
        rows.append(
            [row["title"], row["precision"], row["setting"], str(verdicts["texts"]), str(verdicts["differ"]), told]
        )
    return lines(head, rows)


def _quality(quality: Mapping[str, Any]) -> str:
    told = [name for name in quality if name != "problem"]
    if not told:
        return str(quality.get("problem", "Not measured."))
    sets = list(quality[told[0]])
    head = ["", *sets]
    rows = [[name, *(f"{100 * quality[name][each]:.1f} %" for each in sets)] for name in told]
    return lines(head, rows) + (f"\n\n{quality['problem']}" if "problem" in quality else "")


def _versions(results: Results) -> str:
    seen = {row["title"]: row["versions"] for row in results.rows}
    return lines(
        ["server", "packages"],
        ([title, ", ".join(f"{name} {version}" for name, version in found.items())] for title, found in seen.items()),
    )
