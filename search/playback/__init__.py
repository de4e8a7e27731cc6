"""Videos as browsers play them: what a file is, and its copy or conversion, in processes that may die."""
