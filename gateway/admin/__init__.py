"""The control plane: what operators ask, through the admin API, and how it is carried out."""
