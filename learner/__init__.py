"""The offline half of Lifeguard: everything that runs on a schedule."""
