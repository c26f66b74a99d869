"""The live stream: one reader of Kafka, and the clients that listen."""
