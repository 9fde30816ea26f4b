"""``pneumonai compare``: models x seeds x training sizes on one datalist, each run being the bundle's own training."""
