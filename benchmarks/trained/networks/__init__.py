"""The networks that are trained: small, of four families, about a millisecond each on one core."""
