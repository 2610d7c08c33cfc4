"""`python -m flare_connect.cli`."""

import sys

from . import main

sys.exit(main())
