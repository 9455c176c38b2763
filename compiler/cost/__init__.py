"""What a graph costs: counts, the roofline prior, and measured latencies."""
