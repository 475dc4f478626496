"""The embedded Kafka: jars, files, process and readiness. Next: `process.py`; `streams/broker.py` puts them together."""
