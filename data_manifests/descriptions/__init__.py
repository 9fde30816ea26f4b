"""One JSON description a dataset; read them through :mod:`pneumonai.data_manifests.description`."""
