"""The attack suite: `scripts/attack` runs every known attack on every promise and writes docs/attacks.md."""
