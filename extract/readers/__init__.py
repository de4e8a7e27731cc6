"""Dataset readers: annotation files as distributed in, tables of clips, captions and splits out."""
