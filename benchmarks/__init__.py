"""Speed, memory and size of `smf_lib`, each beside what a user would pick instead."""
