"""The chapter on the paper: published numbers beside measured ones, and what is still to be run."""
