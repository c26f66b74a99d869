"""Reads of lake and tail: requests, SQL, statistics, time travel, export."""
