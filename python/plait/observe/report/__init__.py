"""Reports of a profile, each from its plain dict alone: `terminal`, `html`, `speedscope`."""
