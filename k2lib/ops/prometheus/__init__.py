"""What Prometheus and Alertmanager need to watch K2: their configuration, and rules."""
