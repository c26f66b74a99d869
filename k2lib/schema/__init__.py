"""Records: Avro, Arrow and Iceberg schemas, the codec by column, identity."""
