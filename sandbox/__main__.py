"""`python -m sandbox`, the same as `sandbox`."""

import sys

from sandbox.cli import main

sys.exit(main())
