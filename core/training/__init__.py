# SPDX-License-Identifier: GPL-3.0-or-later
"""Losses, and the one training loop that every trainer shares."""
