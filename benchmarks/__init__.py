"""Speed of the suite against the floor of its networks and against the conventional way; run by `make bench`."""
