"""The page that `groundup export --to space` puts into a Space: `app.py`, copied as it is."""
