"""Operations: local services, status, metrics, alerts."""
