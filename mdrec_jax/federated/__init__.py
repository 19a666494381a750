"""The same model over organisations that keep their data to themselves."""
