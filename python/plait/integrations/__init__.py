"""What other projects need of plait to run on it: each module is for one of them, and imports it."""
