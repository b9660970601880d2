"""The inference node: it holds model versions and answers for them."""
