"""Models made smaller or faster, one file a technique, and the verdict on what came of it."""
