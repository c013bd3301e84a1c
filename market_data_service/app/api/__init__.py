"""The routes of the API: prices, polling jobs, operations."""
