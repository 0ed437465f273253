"""What is learned and what is probed: exam questions, their text formats, corpora, the Hub."""
