# One image for every role and for `sluicegate topics create`. It holds no secret: passwords come by environment or file.
FROM python:3.11-slim

# The locked versions without their hashes: pip takes no hashes together with a local folder.
WORKDIR /src
COPY requirements.lock ./
RUN sed -E '/^ +--hash/d; s/ *\\$//' requirements.lock > /constraints.txt

# The packages of pyproject.toml, nothing else (a test compares).
COPY pyproject.toml README.md __init__.py ./
COPY schemas ./schemas
COPY processors ./processors
COPY streams ./streams
COPY executors ./executors
COPY gateway ./gateway
COPY adapters ./adapters
COPY sinks ./sinks
RUN pip install --no-cache-dir --constraint /constraints.txt . && rm -rf /src

RUN useradd --uid 10001 --create-home sluicegate \
    && mkdir -p /var/lib/sluicegate \
    && chown sluicegate /var/lib/sluicegate
USER sluicegate
WORKDIR /var/lib/sluicegate
ENV SLUICEGATE_HOME=/var/lib/sluicegate \
    SLUICEGATE_WEB_PORT=6066 \
    PYTHONUNBUFFERED=1
VOLUME /var/lib/sluicegate
ENTRYPOINT ["sluicegate"]
CMD ["--help"]
