"""The client by its short name: ``from convserve.client import AsyncClient, Client``."""

import sys

from .service.client import *  # noqa: F403 - the same names, which are listed there
from .service.client import __all__ as __all__

if __name__ == "__main__":
    from .service.client.__main__ import main

    sys.exit(main())
