"""Built-in strategies, one a file. Found through the entry points `cl_framework.strategies`."""
