"""Code that the laptop and the Dask workers share. Save a file here while devloop runs: no image is built for it."""
