"""Built-in scenarios. Found through the entry points `cl_framework.scenarios`."""
