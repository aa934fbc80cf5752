"""Many variables of a data set on a web server, loaded at once."""
