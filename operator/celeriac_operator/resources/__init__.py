"""What the objects look like: the WorkerPool's spec and status, conditions, labels. Pure."""
