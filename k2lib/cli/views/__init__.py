"""What the command line draws: progress, reports, live views."""
