"""Real servers for tests, benchmarks and the demo: HTTP with byte ranges, HTTP/2, and S3."""
