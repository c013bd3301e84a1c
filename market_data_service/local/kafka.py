"""Kafka of this folder, without Docker: the repository's `broker`, under a name that can be imported without its root."""

from broker.local import KAFKA_PORT, MODES, ZOOKEEPER_PORT, LocalBroker

__all__ = ["KAFKA_PORT", "MODES", "ZOOKEEPER_PORT", "LocalBroker"]
