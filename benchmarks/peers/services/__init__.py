"""What runs inside the peers' environments: each module stands alone and imports nothing of this project."""
