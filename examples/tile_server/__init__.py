"""A tile server: map tiles and time series of a sharded array in a bucket."""
