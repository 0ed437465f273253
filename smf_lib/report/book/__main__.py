"""`python -m smf_lib.report.book`; see `smf_lib.report.book.build`."""

import sys

from .build import main

sys.exit(main())
