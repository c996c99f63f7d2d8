"""The running worker: claims, admits, runs, settles. One process owns the connection, what runs, the metrics and the HTTP port."""
