"""The offline half of Lifeguard: everything that runs on a schedule."""

import os

# Before torch is loaded, by whichever module: its threads must not spin beside a guard.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
