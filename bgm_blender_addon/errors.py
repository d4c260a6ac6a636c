# SPDX-License-Identifier: GPL-3.0-or-later
"""The add-on's one error. No bpy."""


class UserError(Exception):
    """What went wrong and what to do, as sentences for the user: operators report them as they are."""
