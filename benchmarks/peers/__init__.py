"""Lifeguard beside what a user would pick instead: same weights, same texts, same machine, one run. See `__main__`."""
