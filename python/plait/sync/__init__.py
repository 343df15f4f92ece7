"""Threads and tasks that wait for one another: channels and locks."""
