"""The supervisor's own process."""

import sys

from aios.stack.supervisor import main

sys.exit(main())
