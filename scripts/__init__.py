"""What sets up, tests and launches OmniLytics on one machine; no part of the installed package."""
