"""``convserve front``: writes Envoy's configuration to standard output."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
