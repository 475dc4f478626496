"""Spans of the ledger to an OpenTelemetry collector, by OTLP over HTTP; the extra `otel`.

The collector is that of `OTEL_EXPORTER_OTLP_ENDPOINT` and its sisters, as for any other program. Ids are made from the
ledger's, so what is exported again replaces itself where the backend keeps spans by their ids. Reads only.
Next: `processors/replay/spans.py` (what a span says), `commands/traces.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from sluicegate.processors.payload import record_in
from sluicegate.processors.replay.recorded import Opener
from sluicegate.processors.replay.spans import CLIENT, Span, spans
from sluicegate.schemas import records as r
from sluicegate.schemas.errors import Retryable, Terminal
from sluicegate.streams.inspect.contents import content_of
from sluicegate.streams.inspect.find import LedgerEvent

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

BATCH = 500
"""Spans of one request, about 1 kB each."""
SCOPE = "sluicegate"


def spans_of(events: Sequence[LedgerEvent], opener: Opener) -> list[Span]:
    """Of one intent; its `traceparent` is content, and is taken where the key store opens it."""
    traceparent = ""
    first = next((e for e in events if isinstance(e.facts, r.IntentFacts)), None)
    if first is not None:
        content = content_of(first, opener)
        record = record_in(content) if isinstance(content, bytes) else None
        traceparent = record.traceparent if isinstance(record, r.Intent) else ""
    return spans([(e.header, e.facts) for e in events], traceparent)


def exporter() -> SpanExporter:
    """The collector's. Raises `Terminal` without the extra."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise Terminal("traces need OpenTelemetry: pip install 'sluicegate[otel]'") from error
    return OTLPSpanExporter()


def export(to: SpanExporter, found: Sequence[Span], env: str) -> int:
    """Send them, and how many. Raises `Retryable` when the collector does not take them."""
    from opentelemetry.sdk.trace.export import SpanExportResult

    for start in range(0, len(found), BATCH):
        if to.export(readable(found[start : start + BATCH], env)) is not SpanExportResult.SUCCESS:
            raise Retryable(
                f"the collector did not take spans {start} to {start + BATCH}, see OTEL_EXPORTER_OTLP_ENDPOINT"
            )
    return len(found)


def readable(found: Sequence[Span], env: str) -> list[ReadableSpan]:
    """As the SDK has them."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

    resource = Resource.create({"service.name": SCOPE, "deployment.environment.name": env})
    scope = InstrumentationScope(SCOPE, _version())

    def context(trace_id: str, span_id: str, *, remote: bool) -> SpanContext:
        return SpanContext(int(trace_id, 16), int(span_id, 16), remote, TraceFlags(TraceFlags.SAMPLED))

    made = []
    for index, one in enumerate(found):
        attributes = dict(one.attributes)
        if one.error:
            attributes["error.type"] = one.error
        made.append(
            ReadableSpan(
                one.name, context(one.trace_id, one.span_id, remote=False),
                context(one.trace_id, one.parent_id, remote=index == 0) if one.parent_id else None,
                resource, attributes, kind=SpanKind.CLIENT if one.kind == CLIENT else SpanKind.INTERNAL,
                status=Status(StatusCode.ERROR, one.error) if one.error else Status(StatusCode.UNSET),
                start_time=one.start * 1_000, end_time=one.end * 1_000, instrumentation_scope=scope,
            )
        )  # fmt: skip
    return made


def _version() -> str:
    try:
        return version("sluicegate")
    except PackageNotFoundError:
        return ""
