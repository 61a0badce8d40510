"""Contracts with the clients that people run, from PyPI and over HTTP."""
