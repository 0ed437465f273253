"""The study as a workflow and a book: notebooks run, and the pages made of them."""
