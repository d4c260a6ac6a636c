# SPDX-License-Identifier: GPL-3.0-or-later
"""The matting engine: footage and a clean plate in, alpha and foreground out. No bpy."""

import sys

__version__ = "0.1.0"

if sys.version_info < (3, 11):  # noqa: UP036  # as a system's own Python may be, which people name in the preferences
    raise SystemExit(f"The engine needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}.")
