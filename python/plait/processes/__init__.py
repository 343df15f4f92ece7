"""The process pool: what the user sees of it, what runs in a worker, and the fork server between them."""
