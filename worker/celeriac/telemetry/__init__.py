"""What a run tells the outside: totals, metrics, events, logs, probes. Never changes what happens."""
