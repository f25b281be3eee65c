"""The command ``meshgraft``: one entry point for both halves, and the demo that shows them."""

import sys
from pathlib import Path

# Where a wheel has the other packages: before those of the same names that others may have
# installed. A clone has them beside this one, and needs nothing.
_PACKAGES = Path(__file__).parent / "_packages"
if _PACKAGES.is_dir() and str(_PACKAGES) not in sys.path:
    sys.path.insert(0, str(_PACKAGES))
