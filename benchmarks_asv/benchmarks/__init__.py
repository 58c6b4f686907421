"""Benchmarks of pocket-tts-cy for airspeed velocity."""
