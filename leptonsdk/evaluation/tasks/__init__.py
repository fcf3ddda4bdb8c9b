"""The built-in tasks, one file each. They come through the same hook as anyone's."""
