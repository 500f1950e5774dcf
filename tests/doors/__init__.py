"""Platforms whose servers lack or refuse something: imitations of them, and what users do there."""
