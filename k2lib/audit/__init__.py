"""The audit: an independent account of a home, by Kafka's client, Iceberg's metadata and DuckDB.

It shares no code with producer, codec and sink: what they believe of each other is counted here.
"""

from k2lib.audit.report import AuditReport, Check, Difference
from k2lib.audit.run import audit

__all__ = ["AuditReport", "Check", "Difference", "audit"]
