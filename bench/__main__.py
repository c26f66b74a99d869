"""All benchmarks, some hours; the report goes to the screen and build/bench.txt."""

from pathlib import Path

from bench import (
    commits,
    http,
    hybrid,
    live_faults,
    live_frames,
    live_freshness,
    live_memory,
    memory,
    reading,
    replay,
    soak,
    throughput,
)


def main() -> None:
    """Run them one after the other."""
    build = Path("build")
    parts = {
        "Throughput": throughput.run(build),
        "Commits": commits.measured(),
        "Memory": memory.run(build),
        "Live: faults": live_faults.run(build),
        "Live: frames": live_frames.run(build),
        "Live: freshness": live_freshness.run(build),
        "Live: memory": live_memory.run(build),
        "Reading": reading.run(build),
        "Reading: HTTP": http.run(build),
        "Reading: freshness": hybrid.run(build),
        "Reading: soak": soak.run(build),
        "Replay": replay.run(build),
    }
    lines = [line for title, part in parts.items() for line in (f"# {title}", *part, "")]
    (build / "bench.txt").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
