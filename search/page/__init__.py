"""The page of a server: its HTML, from the same functions as REST."""
