"""The record of a run: what it holds, how it is written and read, and what it was made from."""
