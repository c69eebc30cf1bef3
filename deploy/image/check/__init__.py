"""Runs an unpacked image under emulation and says whether it is what docs/image.md promises."""
