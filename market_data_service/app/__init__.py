"""Prices over HTTP, kept in PostgreSQL, one Kafka event each, moving averages: see README.md."""
