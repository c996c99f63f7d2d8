"""For the tests of who uses Celeriac: `worker.start_worker` and `tasks.ping`, under Celery's names."""
