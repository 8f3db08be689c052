"""Settings, the experiments of the TOML files, and runs with their records. Imports all but report."""
