"""The page at the end: intent mix, failure rate and e-value over time, with the alarm and the rollback marked.

Everything on it comes from the ledger: two queries of ClickHouse, and the judge fed again with the rows of Kafka. One HTML file
with its charts inside, for a browser without a network. Next: `__main__.py`.
"""

from __future__ import annotations

import html
from collections import defaultdict
from dataclasses import dataclass
from typing import cast

from sluicegate.processors.canary.progress import begin
from sluicegate.processors.releases.release import compile_release
from sluicegate.sinks.embedded import connect, database
from sluicegate.streams.control import releases
from sluicegate.streams.settings import Settings
from sluicegate.streams.watch.canary_evidence import Verdict
from sluicegate.streams.watch.canary_rows import EARLIER_US, from_ledger

BUCKET_S = 5
LABELLED_S = 30
MARK_CSS = (
    ".axis.x .major.guide.line{opacity:1 !important;stroke:#c00 !important;stroke-dasharray:none !important}"
)
"""Only what is marked is a major label of an x axis."""
MIX = """
SELECT intDiv(toUnixTimestamp(first_decided_at), {bucket}) * {bucket} AS t, tool, count() AS n FROM intents
WHERE tool != '' AND first_decided_at >= fromUnixTimestamp64Micro({since}) GROUP BY t, tool ORDER BY t
"""
RATE = """
SELECT intDiv(toUnixTimestamp(first_decided_at), {bucket}) * {bucket} AS t, release, countIf(state = 'refused') / count() AS share
FROM intents WHERE tool = 'shop.refund' AND first_decided_at >= fromUnixTimestamp64Micro({since}) GROUP BY t, release ORDER BY t
"""
METRIC = "refusal"


@dataclass
class Marks:
    """Moments to be marked, a vertical line each: seconds since the epoch -> what happened."""

    moments: list[tuple[float, str]]

    def labels(self, times: list[int]) -> list[str]:
        """A label for each bucket: the numbers of what happened in it, else now and then the seconds since the first."""
        found = []
        for t in times:
            here = [str(n) for n, (at, _) in enumerate(self.moments, 1) if t <= at < t + BUCKET_S]
            told = f"{t - times[0]} s" if here or (t - times[0]) % LABELLED_S == 0 else ""
            found.append(told + "".join(f" ▲{n}" for n in here))
        return found


def buckets(seen: list[int], moments: list[tuple[float, str]]) -> list[int]:
    """Every bucket from the first with traffic to the last with traffic or a moment: what happened after all was quiet shows, too."""
    last = max([*seen, *(int(at) // BUCKET_S * BUCKET_S for at, _ in moments)])
    return list(range(min(seen), last + 1, BUCKET_S))


async def made(settings: Settings, verdict: Verdict, since_us: int, moments: list[tuple[float, str]]) -> str:
    """The page as HTML."""
    client = connect(settings, "reader", database(settings))
    mix = client.query(MIX.format(bucket=BUCKET_S, since=since_us)).result_rows
    rate = client.query(RATE.format(bucket=BUCKET_S, since=since_us)).result_rows
    times = buckets([int(t) for t, *_ in mix], moments)
    marks = Marks(moments)
    names = {verdict.canary.digest: "candidate", verdict.control.deployed: "deployed"}
    charts = [
        _chart(f"Intents by tool, every {BUCKET_S} s", marks.labels(times), _series(times, mix, str), stacked=True),
        _chart(
            f"Share of refunds refused, every {BUCKET_S} s", marks.labels(times),
            _series(times, rate, lambda digest: names.get(str(digest), str(digest)[:15])),
        ),
        await _e_values(settings, verdict, times, marks),
    ]  # fmt: skip
    said = "".join(f"<li>{html.escape(text)}</li>" for _, text in moments)
    body = "".join(f"<figure>{chart}</figure>" for chart in charts)
    return (
        "<!doctype html><meta charset=utf-8><title>The life of a release</title>"
        f"<style>body{{font:16px sans-serif;max-width:1000px;margin:2em auto}}figure{{margin:1em 0}}{MARK_CSS}</style>"
        f"<h1>The life of a release</h1><p>{html.escape(verdict.why)}</p><p>Seconds since the first intent. Marked ▲ in the charts:</p><ol>{said}</ol>{body}"
    )


def _series(times: list[int], rows: object, name: object) -> dict[str, list[float | None]]:
    found: dict[str, list[float | None]] = defaultdict(lambda: [None] * len(times))
    for t, key, value in cast("list[tuple[int, object, float]]", rows):
        if int(t) in times:
            found[name(key)][times.index(int(t))] = round(float(value), 4)  # type: ignore[operator]
    return dict(found)


def _chart(
    title: str, labels: list[str], series: dict[str, list[float | None]], *, stacked: bool = False, logarithmic: bool = False
) -> str:  # fmt: skip
    # Imported here: it hangs a finder of its own into Python's imports, which only the demo should have.
    import pygal
    from pygal.style import CleanStyle

    kind = pygal.StackedBar if stacked else pygal.Line
    chart = kind(
        title=title, style=CleanStyle(background="#ffffff"), height=340, width=1000, x_label_rotation=20, y_labels_major_count=5, show_minor_y_labels=False, legend_at_bottom=True,
        js=[], disable_xml_declaration=True, truncate_label=-1, logarithmic=logarithmic,
    )  # fmt: skip
    chart.x_labels = labels
    chart.x_labels_major = [label for label in labels if "▲" in label]
    for name, values in sorted(series.items()):
        chart.add(name, values)
    return str(chart.render(is_unicode=True))


async def _e_values(settings: Settings, verdict: Verdict, times: list[int], marks: Marks) -> str:
    """The judge's e-value of refusals at the end of each bucket, and the value at which it aborts."""
    deployed, candidate = [
        compile_release(await releases.fetch(settings, digest), proven=True)
        for digest in (verdict.canary.control, verdict.canary.digest)
    ]
    progress = begin(verdict.canary, deployed, candidate)
    cut = dict(cast("list[tuple[int, int]]", verdict.evidence["cut"]))
    rows = [
        row
        async for batch in from_ledger(
            settings, verdict.control.partitions, verdict.canary.at - EARLIER_US, cut
        )
        for row in batch
    ]
    e: list[float | None] = [None] * len(times)
    bound = 0.0
    for row in sorted(rows, key=lambda r: (r.at, r.partition, r.seq)):
        progress.feed([row], row.at)
        metric = next(
            m for m in cast("list[dict[str, float]]", progress.evidence()["metrics"]) if m["metric"] == METRIC
        )
        bucket = int(row.at / 1e6) // BUCKET_S * BUCKET_S
        if bucket in times and row.at >= verdict.canary.at:
            e[times.index(bucket)] = max(metric["e"], 0.001)
            bound = metric["bound"]
    limit: list[float | None] = [bound] * len(times)
    return _chart(
        "e-value of refusals since the canary began, and the value that aborts",
        marks.labels(times),
        {"e-value": e, "aborts at": limit},
        logarithmic=True,
    )
