"""Front doors for clients without a Kafka credential. Read `server.py` first."""
