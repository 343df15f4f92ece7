"""Threads and tasks that wait for one another: channels."""
