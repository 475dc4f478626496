"""Processes and their clients: the side that touches Kafka, files and ports. Read streams/broker.py first."""
