"""The live stream: one reader of Kafka for all its clients."""
