"""What a pair's confidence is worth, measured on given answers, and what is fitted to it."""
