"""A stranger with a URL: load tests that import nothing of the product."""
