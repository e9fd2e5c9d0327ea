"""Networks and files of others: by which names and options they come, and what becomes of them."""
