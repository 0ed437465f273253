"""The record of a run: what it holds, how it is written and read, and where it came from."""
