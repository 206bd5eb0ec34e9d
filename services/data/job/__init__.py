"""The process of one transform: reads a pinned version, writes another. Knows the platform by its public door alone."""
