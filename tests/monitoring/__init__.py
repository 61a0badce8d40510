"""What operators see: rules and dashboard, tried with the real Prometheus."""
