"""Several processes: that they agree, that none is lost, and how fit starts them by itself."""
