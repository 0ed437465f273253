"""Triton's kernels without a GPU: by its interpreter, and compiled for GPUs that are not here.

Triton stands apart from the environment, as what tests/quantised needs does; there is none but for
Linux. `make test` sets TRITON_INTERPRET=1, which Triton reads when it is imported. Where that is
set, Triton has to be there. Elsewhere these tests stand aside but for those of the plain way.
"""

import os
import sys

collect_ignore_glob = []
if sys.platform != "linux" or os.environ.get("TRITON_INTERPRET") != "1":
    collect_ignore_glob = ["test_interpreted.py", "test_compiled.py"]
