"""`python -m smf_lib.book`; see `smf_lib.book.build`."""

import sys

from .build import main

sys.exit(main())
