"""How much random testing is done: `AIOS_TEST_FUZZ=1000` turns a check of seconds into a search of hours."""

import os

EXAMPLES = int(os.environ.get("AIOS_TEST_FUZZ", "2"))
"""Random requests for each method and each route."""
