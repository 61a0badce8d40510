"""Stand-ins for what Lifeguard talks to, real enough to be talked to over the network."""
