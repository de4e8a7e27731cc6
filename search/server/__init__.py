"""The REST interface of search, and the files of clips that it serves."""
