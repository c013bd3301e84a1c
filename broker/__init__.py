"""A local Apache Kafka without Docker: `python -m broker.local start` (see broker/local.py)."""
