"""What the machine and its processes are at, beside every figure."""

import os
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def busy() -> str:
    """Return the load average of 1, 5 and 15 minutes."""
    told = ", ".join(f"{one:.1f}" for one in os.getloadavg())
    return f"load average {told} on {os.cpu_count()} cores"


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process took, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def rss_mb(pid: int) -> float:
    """Return the memory that a process holds, in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * PAGE_BYTES / 2**20
