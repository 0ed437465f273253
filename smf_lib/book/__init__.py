"""The study as a workflow and a book: notebooks run, what they depend on, and the pages."""
