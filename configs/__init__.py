"""Presets: `configs/<group>/<name>.yaml` and `configs/experiment/<name>.yaml`."""
