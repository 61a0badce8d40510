"""What is claimed about Lifeguard, measured: each module is a command, its figures land in `results/`."""
