"""Run configuration: field types, sections, schema, merging, presets."""
