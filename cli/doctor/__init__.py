"""`backburner doctor`: checks of everything between a prompt and its answer."""
