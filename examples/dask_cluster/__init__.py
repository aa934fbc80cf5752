"""An array larger than a worker's memory, reduced and written back by the processes of dask.distributed."""
