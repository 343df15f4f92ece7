"""The thread pool: `plait.ThreadPool`."""
