"""Device profiles: TOML data that says what a device is and how to run on it, and its strict loader."""

from profiles.loader import list_profiles, load_profile

__all__ = ["list_profiles", "load_profile"]
