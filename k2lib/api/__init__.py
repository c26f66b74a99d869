"""The HTTP API: reads of lake and log for programs that are not written in Python."""
