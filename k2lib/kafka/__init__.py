"""Kafka: topics, producer, consumer, registry, the embedded broker."""
